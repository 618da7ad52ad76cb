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
    """Goes beside the block, chases a point of the block so that it is pushed, and again.

    Pushes aim at random points near the block's centre of mass, off-centre often enough to turn it,
    and prefer directions that keep the block away from the walls.
    """

    def __init__(self, rng: np.random.Generator, max_step: float) -> None:
        self.rng, self.max_step = rng, max_step
        self.left = 0
        self.beside: Array | None = None  # where to go before pushing
        self.point = np.zeros(2)  # what to push, metres in the block's frame
        self.speed = max_step
        self.last = np.full(2, np.inf)  # where the pusher was

    def __call__(self, obs: Any, info: dict[str, Any]) -> Array:
        pusher, block, angle = info["state"][:2], info["state"][2:4], info["state"][4]
        stuck = float(np.linalg.norm(pusher - self.last)) < 0.15 * self.speed
        if self.left == 0 or stuck:
            self._choose(pusher, block, stuck)
        self.left -= 1
        self.last = pusher
        if self.beside is not None and np.linalg.norm(pusher - self.beside) < 0.015:
            self.beside = None
        cos, sin = np.cos(angle), np.sin(angle)
        chased = block + np.array([[cos, -sin], [sin, cos]]) @ self.point
        offset = (chased if self.beside is None else self.beside) - pusher
        distance = float(np.linalg.norm(offset)) + 1e-9
        step = offset / distance * min(distance, self.speed)
        step = step + self.rng.normal(0.0, 0.15 * self.max_step, 2)
        return np.clip(step, -self.max_step, self.max_step).astype(np.float32)

    def _choose(self, pusher: Array, block: Array, stuck: bool) -> None:
        """A new push: from where the pusher is if the block has room ahead, else from elsewhere
        (a pusher that is stuck has pressed the block against a wall)."""
        self.left = int(self.rng.integers(6, 22))
        self.speed = self.max_step * self.rng.uniform(0.5, 1.0)
        self.point = self.rng.normal(0.0, 0.04, 2)
        towards = block - pusher
        ahead = block + 0.12 * towards / np.linalg.norm(towards)
        roomy = bool((ahead > 0.1).all() and (ahead < WORKSPACE - 0.1).all())
        self.beside = None
        if roomy and not stuck and self.rng.uniform() < 0.6:
            return
        if stuck:  # back off, to a random side
            angle = self.rng.uniform(-np.pi, np.pi)
            towards = np.array([np.cos(angle), np.sin(angle)])
        else:
            towards = self.rng.uniform(0.13, WORKSPACE - 0.13, 2) - block
        beside = block - 0.095 * towards / np.linalg.norm(towards)
        self.beside = np.clip(beside, 0.016, WORKSPACE - 0.016)
        self.left += 10
