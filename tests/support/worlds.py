"""The bundled environments, for tests of what they share."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from envs.exploration import explorer

ALL = [
    ("PushT", {}),
    ("Maze", {"layout": "U"}),
    ("Maze", {"layout": "medium"}),
    ("Maze", {"layout": "random"}),
    ("GranularChips", {"chips": 20}),
]
each = pytest.mark.parametrize(
    ("name", "kwargs"), ALL, ids=["pusht", "U", "medium", "random", "chips"]
)


def explore(env: gym.Env[Any, Any], seed: int, steps: int) -> tuple[list[Any], list[Any]]:
    """Actions and (obs, info) of an exploration episode."""
    policy = explorer(env, "explore", np.random.default_rng(seed))
    actions, seen = [], [env.reset(seed=seed)]
    for _ in range(steps):
        actions.append(policy(*seen[-1]))
        obs, _, _, _, info = env.step(actions[-1])
        seen.append((obs, info))
    return actions, seen
