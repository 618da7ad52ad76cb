"""Policies that Stable-Baselines3 has trained, for exploration."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from envs.task import Policy


def trained_policy(env: gym.Env[Any, Any], name: str, rng: np.random.Generator) -> Policy:
    """The policy of an archive that Stable-Baselines3 saved. It acts at random, as in training, on
    the environment's own observations.

    Args:
        env: whose observations and actions it was trained with.
        name: algorithm and file, as ``PPO:runs/ppo.zip``.
        rng: seeds the policy.

    Raises:
        ValueError: Stable-Baselines3 is not installed, or there is no such algorithm or archive.
    """
    algorithm, _, path = name.rpartition(":")
    model = _load(algorithm, path)
    model.set_random_seed(int(rng.integers(2**31)))
    raw = "raw_observation" if env.has_wrapper_attr("raw_observation") else ""

    def policy(obs: Any, info: dict[str, Any]) -> Any:
        seen = env.get_wrapper_attr(raw) if raw else obs
        return model.predict(seen, deterministic=False)[0]

    return policy


@functools.cache
def _load(algorithm: str, path: str) -> Any:
    try:
        import stable_baselines3
    except ImportError:
        raise ValueError(f"policy {path} needs pip install 'worldmodel[sb3]'") from None
    made_by: Any = getattr(stable_baselines3, algorithm, None)
    if not hasattr(made_by, "load"):
        raise ValueError(
            f"policy is {path}, made by {algorithm or 'an unknown algorithm'}: write the algorithm "
            f"before the file, as --policy PPO:{path}"
        )
    if not Path(path).is_file():
        raise ValueError(f"no policy at {path}")
    try:
        return made_by.load(path, device="cpu")
    except Exception as error:  # whatever an archive of something else leads to
        raise ValueError(f"policy {path} cannot be loaded as {algorithm}: {error}") from None
