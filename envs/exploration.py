"""Exploration policies by name, for any environment with continuous actions.

``random`` is a random walk. The other names are the environment's own (see `Task.explore`),
``my_module:make``, or ``PPO:ppo.zip``; without a task, ``explore`` is a random walk as well.
"""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium as gym
import numpy as np

from envs.random_walk import RandomWalk
from envs.task import Policy, Task, find_task
from envs.trained_policy import trained_policy

__all__ = ["RandomWalk", "explorer"]


def explorer(env: gym.Env[Any, Any], name: str, rng: np.random.Generator) -> Policy:
    """The exploration policy `name` of an environment, drawing from `rng`.

    Args:
        env: with actions in a Box.
        name: of the environment's policies, or ``my_module:make``: a function ``make(env, rng)``
            that returns a policy ``policy(obs, info) -> action``. Where actions are choices (see
            `envs.wrappers.OneHotActions`), it may return those of the environment, too. For
            ``PPO:ppo.zip`` see `trained_policy`.
        rng: source of the randomness.

    Raises:
        ValueError: the action space is no Box, or there is no such policy.
    """
    space = env.action_space
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(f"action space is {space}; policies need a Box")
    policy = _named(env, name, space, rng)
    if not env.has_wrapper_attr("one_hot_action"):
        return policy
    one_hot = env.get_wrapper_attr("one_hot_action")
    return lambda obs, info: one_hot(policy(obs, info))


def _named(
    env: gym.Env[Any, Any], name: str, space: gym.spaces.Box, rng: np.random.Generator
) -> Policy:
    if name.endswith(".zip"):
        return trained_policy(env, name, rng)
    if ":" in name:
        return _imported(env, name, rng)
    task = find_task(env)
    names = Task.policies if task is None else task.policies
    if name not in names:
        raise ValueError(f"policy is {name!r}; choose one of {', '.join(names)}")
    if name == "random" or task is None:
        return RandomWalk(rng, space, persistence=2.0)
    return task.explore(name, rng)


def _imported(env: gym.Env[Any, Any], name: str, rng: np.random.Generator) -> Policy:
    module, _, function = name.partition(":")
    try:
        made: Policy = getattr(importlib.import_module(module), function)(env, rng)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"no policy {name!r}: {error}") from None
    if not callable(made):
        raise ValueError(f"{name} returns {made!r:.60}: it must return policy(obs, info) -> action")
    return made
