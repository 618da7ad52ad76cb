"""Frames per second of each environment, physics and rendering, in one process.

python tests/bench/bench_envs.py [seconds for each]
"""

from __future__ import annotations

import sys
import time
from typing import Any

import gymnasium as gym
import numpy as np

from envs.policies import make_policy

TASKS: list[tuple[str, dict[str, Any]]] = [
    ("PushT", {}),
    ("Maze", {"layout": "U"}),
    ("Maze", {"layout": "medium"}),
    ("Maze", {"layout": "random"}),
    ("GranularChips", {}),
]
EPISODE = 100


def frames_per_second(name: str, kwargs: dict[str, Any], seconds: float) -> tuple[float, float]:
    """Frames a second with exploration at 112 pixels, resets included; and of physics alone."""
    env = gym.make(f"envs:worldmodel/{name}-v0", disable_env_checker=True, **kwargs)
    policy = make_policy(env, "explore", np.random.default_rng(0))
    env.reset(seed=0)  # the first image pays for the OpenGL context
    frames, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        obs, info = env.reset(seed=frames)
        for _ in range(EPISODE):
            obs, _, _, _, info = env.step(policy(obs, info))
        frames += EPISODE + 1
    with_rendering = frames / (time.perf_counter() - begun)

    world: Any = env.unwrapped
    actions = np.stack([env.action_space.sample() for _ in range(EPISODE)])
    steps, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds / 2:
        world.physics(info["state"], actions)
        steps += EPISODE
    physics = steps / (time.perf_counter() - begun)
    env.close()
    return with_rendering, physics


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    print(f"{'environment':<14} {'frames/s, 112 px':>17} {'steps/s, physics only':>22}")
    for name, kwargs in TASKS:
        with_rendering, physics = frames_per_second(name, kwargs, seconds)
        label = " ".join([name, *kwargs.values()])
        print(f"{label:<14} {with_rendering:>17.0f} {physics:>22.0f}")


if __name__ == "__main__":
    main()
