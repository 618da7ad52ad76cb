"""Sampling of held-out tasks: where an episode starts and which state is its goal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from numpy.typing import NDArray

from envs.pictures import resized
from envs.task import task_of
from worldmodel.errors import UserError

Array = NDArray[Any]
# Datasets seed their environments with 32-bit numbers, so no task is part of a training set.
HELD_OUT = 2**32
SEEDS_PER_SEED = 2**20


@dataclass(frozen=True, eq=False)
class GoalTask:
    """Start and goal states ``[Ds]``, and the environment's seed that they come from."""

    start_state: Array
    goal_state: Array
    env_seed: int


def sample_tasks(
    env: gym.Env[Any, Any],
    count: int,
    seed: int,
    goal_offset: int,
    allowed: Callable[[Array, Array], bool] = lambda start, goal: True,
) -> list[GoalTask]:
    """Tasks that are not solved at their start; the same for the same seed.

    Args:
        env: its `envs.task.Task` samples them.
        count: number of tasks.
        seed: of all of them.
        goal_offset: environment steps from the start to the goal, where the task uses them.
        allowed: whether a start and a goal may be a task.

    Raises:
        UserError: `goal_offset` is out of range, or nearly all tasks are solved at their start or
            not allowed.
    """
    if not 1 <= goal_offset <= 1000:
        raise UserError(f"goal_offset is {goal_offset}: it must be 1 to 1000 environment steps")
    if seed < 0 or count < 1:
        raise UserError(f"cannot make {count} tasks of seed {seed}: use at least 1 and at least 0")
    task = task_of(env)
    tasks: list[GoalTask] = []
    first = HELD_OUT + seed * SEEDS_PER_SEED
    for env_seed in range(first, first + 50 * count + 100):
        start, goal = task.sample_task(env_seed, goal_offset)
        if not task.success(start, goal) and allowed(start, goal):
            tasks.append(GoalTask(start, goal, env_seed))
        if len(tasks) == count:
            return tasks
    raise UserError(
        f"only {len(tasks)} of {count} tasks were unsolved at their start and suit the guardrails: "
        f"use a larger goal_offset than {goal_offset}, or other guardrails"
    )


def begin(env: gym.Env[Any, Any], task: GoalTask, variation: Sequence[str] = ()) -> tuple[Any, Any]:
    """Reset `env` to the start of `task`, with variations (see `Task.variations`)."""
    options: dict[str, Any] = {"state": task.start_state}
    if variation:
        options["variation"] = variation
    return env.reset(seed=task.env_seed, options=options)


def render(env: gym.Env[Any, Any], state: Array) -> Array:
    """The image of a state, with the current variations, as observations show it: uint8
    ``[H, W, 3]``."""
    size = env.observation_space["pixels"].shape[0]  # type: ignore[index]
    return resized(task_of(env).render_state(state), size)
