"""Exploration policies: what the robot does while its experience is logged.

A policy is a callable ``policy(obs, info) -> action``. ``"explore"`` knows the bundled tasks and
may read the simulator's state, since it only makes data; ``"wild"`` is the same with random actions
in between (in Push-T bursts of them, with chips strokes from anywhere to anywhere), as wild as a
planner's guesses; ``"random"`` works for any Box action space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from envs.base import Array
from envs.chips import TRAY, GranularChipsEnv, stroke_at_chips
from envs.maze import MazeEnv
from envs.pusht import WORKSPACE, PushTEnv

Policy = Callable[[Any, dict[str, Any]], Array]
POLICIES = ("explore", "wild", "random")


def make_policy(env: gym.Env[Any, Any], name: str, rng: np.random.Generator) -> Policy:
    """The policy ``name`` (one of `POLICIES`) for ``env``, drawing from ``rng``."""
    space = env.action_space
    if not isinstance(space, gym.spaces.Box):
        raise ValueError(f"action space is {space}; policies need a Box")
    if name not in POLICIES:
        raise ValueError(f"policy is {name!r}; choose one of {', '.join(POLICIES)}")
    if name != "random" and isinstance(env.unwrapped, PushTEnv):
        return PushExplorer(rng, float(space.high[0]), wild=0.5 if name == "wild" else 0.0)
    if name != "random" and isinstance(env.unwrapped, MazeEnv):
        return RandomWalk(rng, space, persistence=8.0)
    if name != "random" and isinstance(env.unwrapped, GranularChipsEnv):
        return Strokes(rng, wild=name == "wild")
    return RandomWalk(rng, space, persistence=2.0)


class Strokes:
    """Strokes at chips; if `wild`, long ones too, and every other one from anywhere to anywhere."""

    def __init__(self, rng: np.random.Generator, wild: bool) -> None:
        self.rng, self.wild = rng, wild

    def __call__(self, obs: Any, info: dict[str, Any]) -> Array:
        if self.wild and self.rng.uniform() < 0.5:
            return self.rng.uniform(0.0, TRAY, 4).astype(np.float32)
        longest = 0.8 * TRAY if self.wild else 0.2
        return stroke_at_chips(self.rng, info["state"], longest).astype(np.float32)


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
    """Pushes the block about, and goes round it to push from another side.

    Half of the pushes chase a random point near the block's centre of mass, off-centre often enough
    to turn it. The others keep one action up for several steps, come what may, as planners do when
    they search. A block at a wall can hardly be moved any more, and teaches little: pushes end when
    they bring the block to a wall, and begin so that they lead inside.

    With `wild` above 0, that share of the choices is a burst instead: any action up to the bounds,
    whatever becomes of it.
    """

    BURST = 5  # steps

    SIZE = 0.1  # metres: how far the block reaches from its centre of mass, and a little
    BESIDE = 0.1  # metres from the block's centre of mass to where a push begins

    def __init__(self, rng: np.random.Generator, max_step: float, wild: float = 0.0) -> None:
        self.rng, self.max_step, self.wild = rng, max_step, wild
        self.left = 0
        self.kept: Array | None = None  # the action that is kept up
        self.careful = True  # whether the block is kept off the walls
        self.beside: Array | None = None  # where to go before pushing
        self.point = np.zeros(2)  # what to push, metres in the block's frame
        self.speed = max_step
        self.last = np.full(2, np.inf)  # where the pusher was

    def __call__(self, obs: Any, info: dict[str, Any]) -> Array:
        pusher, block, angle = info["state"][:2], info["state"][2:4], info["state"][4]
        stuck = float(np.linalg.norm(pusher - self.last)) < 0.15 * self.speed
        self.last = pusher
        if self.beside is not None and np.linalg.norm(pusher - self.beside) < 0.015:
            self.beside = None
        towards = block - pusher
        pushes = self.beside is None and self.careful
        if self.left == 0 or stuck or (pushes and self._leaves(block, towards)):
            self._choose(pusher, block, stuck)
        self.left -= 1
        if self.kept is not None:
            step = self.kept
        elif self.beside is not None:
            step = self._around(pusher, block, _within(self.beside - pusher, 1.4 * self.max_step))
        else:
            cos, sin = np.cos(angle), np.sin(angle)
            chased = block + np.array([[cos, -sin], [sin, cos]]) @ self.point
            step = _within(chased - pusher, self.speed)
        step = step + self.rng.normal(0.0, 0.15 * self.max_step, 2)
        return np.clip(step, -self.max_step, self.max_step).astype(np.float32)

    def _choose(self, pusher: Array, block: Array, stuck: bool) -> None:
        """What to do next: keep an action that goes about towards the block, chase a point of it,
        or go to where the block can be pushed towards a random place inside."""
        self.speed = self.max_step * self.rng.uniform(0.25, 0.75)
        self.point = self.rng.normal(0.0, 0.04, 2)
        self.beside = self.kept = None
        self.careful = not (self.wild and self.rng.uniform() < self.wild)
        towards = block - pusher
        if not self.careful:
            self.kept = self.rng.normal(0.0, self.max_step * self.rng.uniform(0.1, 1.0), 2)
            self.left = self.BURST
        elif stuck:  # back off, to any side
            self.kept = self.rng.uniform(-self.max_step, self.max_step, 2)
            self.left = int(self.rng.integers(3, 8))
        elif self._leaves(block, towards) or self.rng.uniform() < 0.1:
            inside = self.rng.uniform(0.15, WORKSPACE - 0.15, 2) - block
            beside = block - self.BESIDE * inside / (np.linalg.norm(inside) + 1e-9)
            self.beside = np.clip(beside, 0.016, WORKSPACE - 0.016)
            self.left = int(self.rng.integers(20, 40))
        elif self.rng.uniform() < 0.5:
            angle = np.arctan2(towards[1], towards[0]) + self.rng.normal(0.0, 0.5)
            length = self.max_step * self.rng.uniform(0.1, 1.2)
            self.kept = length * np.array([np.cos(angle), np.sin(angle)])
            self.left = int(self.rng.integers(3, 10))
        else:
            self.left = int(self.rng.integers(8, 24))

    def _leaves(self, block: Array, towards: Array) -> bool:
        """Whether the block, pushed on this way, soon meets a wall."""
        ahead = block + 0.08 * towards / (np.linalg.norm(towards) + 1e-9)
        outward = (ahead - WORKSPACE / 2) * towards > 0
        outside = np.abs(ahead - WORKSPACE / 2) > WORKSPACE / 2 - self.SIZE
        return bool((outward & outside).any())

    def _around(self, pusher: Array, block: Array, step: Array) -> Array:
        """`step` without what would run into the block."""
        away = pusher - block
        distance = float(np.linalg.norm(away)) + 1e-9
        inward = -float(step @ away) / distance
        if distance > self.BESIDE or inward <= 0:
            return step
        along = step + inward * away / distance
        if np.linalg.norm(along) < 0.2 * inward:  # right behind the block: pick a side
            along = np.array([-away[1], away[0]])
        return along


def _within(step: Array, length: float) -> Array:
    """`step`, shortened to at most `length`."""
    return step * min(1.0, length / (float(np.linalg.norm(step)) + 1e-9))
