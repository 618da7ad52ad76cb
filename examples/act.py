"""Load a bundled checkpoint, make its environment, and act towards a goal image.

python examples/act.py
"""

from __future__ import annotations

import gymnasium as gym

import worldmodel

env = gym.make("envs:worldmodel/PushT-v0")
obs, info = env.reset(seed=0)
# A goal is an image. Here the simulator draws one; on a robot it is a photograph.
goal = env.unwrapped.render_state(info["goal_state"])  # type: ignore[attr-defined]

agent = worldmodel.load("pusht", planner="cem", samples=100, iterations=5)
agent.reset(goal)
for step in range(20):
    obs, _, _, _, info = env.step(agent.act(obs))
    if step % 5 == 0:
        print(f"step {step}: latent distance to the goal {agent.distance.item():.3f}")
env.close()
