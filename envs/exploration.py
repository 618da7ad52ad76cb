"""Exploration policies by name, for any environment with continuous actions.

``random`` is a random walk. The other names are the environment's own (see `Task.explore`); without
a task, ``explore`` is a random walk as well.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from envs.random_walk import RandomWalk
from envs.task import Policy, Task, find_task

__all__ = ["RandomWalk", "explorer"]


def explorer(env: gym.Env[Any, Any], name: str, rng: np.random.Generator) -> Policy:
    """The exploration policy `name` of an environment, drawing from `rng`.

    Raises:
        ValueError: the action space is no Box, or the environment has no such policy.
    """
    space = env.action_space
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(f"action space is {space}; policies need a Box")
    task = find_task(env)
    names = Task.policies if task is None else task.policies
    if name not in names:
        raise ValueError(f"policy is {name!r}; choose one of {', '.join(names)}")
    if name == "random" or task is None:
        return RandomWalk(rng, space, persistence=2.0)
    return task.explore(name, rng)
