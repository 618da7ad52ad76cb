"""The judge: what became of episodes, told from states that no agent has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs import chips, maze, pusht
from worldmodel.errors import UserError
from worldmodel.measure.tasks import Task

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What became of n tasks: bool ``[n]`` each; `block` ones only where the task has a block.
    `chamfer`, where it has chips: Chamfer distance at the start and at the end ``[2, n]``."""

    success_any: Array
    success_final: Array
    block_any: Array | None = None
    block_final: Array | None = None
    chamfer: Array | None = None


def judge(env: gym.Env[Any, Any], paths: Sequence[Array], tasks: Sequence[Task]) -> Outcomes:
    """Success of paths of states, each ``[steps + 1, Ds]`` from a task's start on."""
    world: Any = env.unwrapped

    def solved(success: Any) -> Array:
        """Whether each task was solved after each step, bool [n, steps]."""
        return np.array(
            [
                [success(state, task.goal_state) for state in path[1:]]
                for path, task in zip(paths, tasks, strict=True)
            ]
        )

    both = solved(world.success)
    if isinstance(world, chips.GranularChipsEnv):
        ends = [
            [
                world.chamfer(path[at], task.goal_state)
                for path, task in zip(paths, tasks, strict=True)
            ]
            for at in (0, -1)
        ]
        return Outcomes(np.any(both, 1), both[:, -1], chamfer=np.array(ends))
    if not hasattr(world, "block_success"):
        return Outcomes(np.any(both, 1), both[:, -1])
    block = solved(world.block_success)
    return Outcomes(np.any(both, 1), both[:, -1], np.any(block, 1), block[:, -1])


def judged_distance(env: gym.Env[Any, Any], states: Array, goal: Array) -> Array:
    """Squared distance of states ``[..., Ds]`` to `goal`, in units of what success tolerates."""
    world = env.unwrapped
    if isinstance(world, pusht.PushTEnv):
        position = np.linalg.norm(states[..., :4] - goal[:4], axis=-1) / pusht.POSITION_TOLERANCE
        angle = (states[..., 4] - goal[4] + np.pi) % (2 * np.pi) - np.pi
        squared: Array = position**2 + (angle / pusht.ANGLE_TOLERANCE) ** 2
        return squared
    if isinstance(world, maze.MazeEnv):
        squared = ((states[..., :2] - goal[:2]) ** 2).sum(-1) / (maze.CELL / 2) ** 2
        return squared
    if isinstance(world, chips.GranularChipsEnv):
        apart = [world.chamfer(state, goal) for state in states.reshape(-1, states.shape[-1])]
        squared = np.reshape(apart, states.shape[:-1]) ** 2
        return squared
    raise UserError(f"{env.spec and env.spec.id} has no known distance: use --ceiling_episodes 0")


def errors(env: gym.Env[Any, Any], state: Array, goal: Array) -> dict[str, float]:
    """How far `state` is from `goal`, by names that have units, for people to read."""
    world: Any = env.unwrapped
    if isinstance(world, pusht.PushTEnv):
        return {
            "pusher, mm": 1e3 * float(np.linalg.norm(state[:2] - goal[:2])),
            "block, mm": 1e3 * float(np.linalg.norm(state[2:4] - goal[2:4])),
            "angle, degrees": float(np.rad2deg(world.angle_error(state, goal))),
        }
    if isinstance(world, maze.MazeEnv):
        return {"distance, cells": float(np.linalg.norm(state[:2] - goal[:2])) / maze.CELL}
    return {"Chamfer distance, chip widths": world.chamfer(state, goal)}
