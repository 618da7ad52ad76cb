"""A random policy that works in any environment with continuous actions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class RandomWalk:
    """Repeats a uniformly random action, with a little noise, for a random number of steps.

    Args:
        rng: source of the randomness.
        space: of actions. Infinite bounds count as -1 and 1.
        persistence: mean number of steps that an action is repeated (geometrically distributed).
    """

    def __init__(self, rng: np.random.Generator, space: gym.spaces.Box, persistence: float) -> None:
        self.rng, self.space, self.persistence = rng, space, persistence
        self.low = np.where(np.isfinite(space.low), space.low, -1.0)
        self.high = np.where(np.isfinite(space.high), space.high, 1.0)
        self.action = self.low
        self.steps_left = 0

    def __call__(self, obs: Any, info: dict[str, Any]) -> Array:
        if self.steps_left == 0:
            self.action = self.rng.uniform(self.low, self.high)
            self.steps_left = int(self.rng.geometric(1.0 / self.persistence))
        self.steps_left -= 1
        noise = self.rng.normal(0.0, 0.1, self.low.shape) * (self.high - self.low) / 2
        return np.clip(self.action + noise, self.low, self.high).astype(self.space.dtype)
