"""Train something else on our latents: goal images, latents and frame history as observations.

python examples/observations.py
"""

from __future__ import annotations

import gymnasium as gym

from envs.wrappers import FrameHistory, GoalImage, LatentObservation
from worldmodel.encoders.encoder import load_encoder

# "ibot-112" is what ships with the package. "random-112" has the same shape and needs no weights.
encoder = load_encoder("random-112")
env = gym.make("envs:worldmodel/Maze-v0", layout="random")
env = FrameHistory(LatentObservation(GoalImage(env), encoder.encode), frames=3, skip=5)
obs, _ = env.reset(seed=0)
for _ in range(10):
    obs, *_ = env.step(env.action_space.sample())
for name, value in sorted(obs.items()):
    print(f"{name:<8} {value.dtype} {list(value.shape)}")
env.close()
