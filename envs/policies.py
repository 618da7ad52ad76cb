"""Exploration policies: what the robot does while its experience is logged.

A policy is a callable ``policy(obs, info) -> action``. ``"explore"`` knows the bundled tasks and
may read the simulator's state, since it only makes data; ``"random"`` works for any Box action
space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from envs.base import Array
from envs.maze import MazeEnv
from envs.pusht import WORKSPACE, PushTEnv

Policy = Callable[[Any, dict[str, Any]], Array]


def make_policy(env: gym.Env[Any, Any], name: str, rng: np.random.Generator) -> Policy:
    """The policy ``name`` (``"explore"`` or ``"random"``) for ``env``, drawing from ``rng``."""
    space = env.action_space
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(f"action space is {space}; policies need a Box")
    if name not in ("explore", "random"):
        raise ValueError(f"policy is {name!r}; choose 'explore' or 'random'")
    if name == "explore" and isinstance(env.unwrapped, PushTEnv):
        return PushExplorer(rng, float(space.high[0]))
    if name == "explore" and isinstance(env.unwrapped, MazeEnv):
        return RandomWalk(rng, space, persistence=8.0)
    return RandomWalk(rng, space, persistence=2.0)


class RandomWalk:
    """A random action kept for a random number of steps, ``persistence`` on average."""

    def __init__(self, rng: np.random.Generator, space: gym.spaces.Box, persistence: float) -> None:
        self.rng, self.space, self.persistence = rng, space, persistence
        self.low = np.where(np.isfinite(space.low), space.low, -1.0)
        self.high = np.where(np.isfinite(space.high), space.high, 1.0)
        self.action = self.low
        self.left = 0

    def __call__(self, obs: Any, info: dict[str, Any]) -> Array:
        if self.left == 0:
            self.action = self.rng.uniform(self.low, self.high)
            self.left = int(self.rng.geometric(1.0 / self.persistence))
        self.left -= 1
        noise = self.rng.normal(0.0, 0.1, self.low.shape) * (self.high - self.low) / 2
        return np.clip(self.action + noise, self.low, self.high).astype(self.space.dtype)


class PushExplorer:
    """Goes beside the block, pushes through it, and again from another side.

    Pushes aim near the block's centre of mass, off-centre often enough to turn it, and prefer
    directions that keep the block away from the walls.
    """

    def __init__(self, rng: np.random.Generator, max_step: float) -> None:
        self.rng, self.max_step = rng, max_step
        self.stage = "choose"
        self.left = 0
        self.target = np.zeros(2)
        self.aim = np.zeros(2)
        self.speed = max_step

    def __call__(self, obs: Any, info: dict[str, Any]) -> Array:
        pusher, block = info["state"][:2], info["state"][2:4]
        if self.left <= 0:
            self.stage = "push" if self.stage == "approach" else "choose"
        if self.stage == "choose":
            self._choose(pusher, block)
        if self.stage == "approach" and np.linalg.norm(pusher - self.target) < 0.012:
            self.stage, self.left = "push", int(self.rng.integers(8, 20))
        if self.stage == "push" and self.left <= 0:
            self.left = int(self.rng.integers(8, 20))
        self.left -= 1
        goal = self.target if self.stage == "approach" else self.aim
        offset = goal - pusher
        distance = float(np.linalg.norm(offset)) + 1e-9
        if self.stage == "push" and distance < 0.01:
            self.left = 0
        step = offset / distance * min(distance, self.speed)
        step = step + self.rng.normal(0.0, 0.15 * self.max_step, 2)
        return np.clip(step, -self.max_step, self.max_step).astype(np.float32)

    def _choose(self, pusher: Array, block: Array) -> None:
        # Often push on from where the pusher is, so that most steps touch the block; otherwise go
        # round it and push towards a random free place, so that it leaves the walls again.
        towards = block - pusher
        ahead = block + 0.12 * towards / np.linalg.norm(towards)
        roomy = bool((ahead > 0.1).all() and (ahead < WORKSPACE - 0.1).all())
        if not roomy or self.rng.uniform() < 0.4:
            towards = self.rng.uniform(0.13, WORKSPACE - 0.13, 2) - block
        angle = np.arctan2(towards[1], towards[0]) + self.rng.normal(0.0, 0.4)
        direction = np.array([np.cos(angle), np.sin(angle)])
        side = np.array([-direction[1], direction[0]]) * self.rng.uniform(-0.05, 0.05)
        low, high = 0.016, WORKSPACE - 0.016
        self.target = np.clip(block - 0.085 * direction + side, low, high)
        self.aim = np.clip(block + self.rng.uniform(0.05, 0.2) * direction + side, low, high)
        self.speed = self.max_step * self.rng.uniform(0.5, 1.0)
        self.stage = "approach"
        self.left = 14
