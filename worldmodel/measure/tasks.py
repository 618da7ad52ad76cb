"""Sampling of held-out tasks: where an episode starts and which state is its goal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from numpy.typing import NDArray

from envs.pictures import resized
from envs.task import NoGoal, task_of
from worldmodel.cli import Progress, progress
from worldmodel.errors import UserError

Array = NDArray[Any]
# Datasets seed their environments with 32-bit numbers, so no task is part of a training set.
HELD_OUT = 2**32
SEEDS_PER_SEED = 2**20
PATIENCE = 100  # seeds without a goal, after which none is expected


@dataclass(frozen=True, eq=False)
class GoalTask:
    """Start and goal states ``[Ds]``, and the environment's seed that they come from. Where the
    goal is the environment's own, it may be shown by an image ``[H, W, 3]`` from elsewhere."""

    start_state: Array
    goal_state: Array
    env_seed: int
    goal_image: Array | None = None


def sample_tasks(
    env: gym.Env[Any, Any],
    count: int,
    seed: int,
    goal_offset: int,
    allowed: Callable[[Array, Array], bool] = lambda start, goal: True,
    goal_image: Array | None = None,
) -> list[GoalTask]:
    """Tasks that are not solved at their start; the same for the same seed.

    Args:
        env: its `envs.task.Task` samples them.
        count: number of tasks.
        seed: of all of them.
        goal_offset: environment steps from the start to the goal, where the task uses them.
        allowed: whether a start and a goal may be a task.
        goal_image: of the environment's own goal, ``[H, W, 3]``, where tasks start as the
            environment itself does; default: goals that the task samples.

    Raises:
        UserError: `goal_offset` is out of range; there is a goal image, but success refers to a
            goal state; exploration reaches no goals; or nearly all tasks are solved at their start
            or not allowed.
    """
    if not 1 <= goal_offset <= 1000:
        raise UserError(f"goal_offset is {goal_offset}: it must be 1 to 1000 environment steps")
    if seed < 0 or count < 1:
        raise UserError(f"cannot make {count} tasks of seed {seed}: use at least 1 and at least 0")
    task = task_of(env)
    if goal_image is not None and not task.own_goal:
        raise UserError(
            "--goal goes with a success that the environment itself announces, as --success "
            "info.is_success: any other compares with the state of the goal, which an image does "
            "not tell"
        )
    tasks: list[GoalTask] = []
    without = 0
    first = HELD_OUT + seed * SEEDS_PER_SEED
    bar: Progress[int]
    with progress(None, count, "tasks", "task") as bar:
        for env_seed in range(first, first + 50 * count + 100):
            try:
                each = _sample_task(env, env_seed, goal_offset, goal_image)
                start, goal = each.start_state, each.goal_state
                suits = not task.success(start, goal) and allowed(start, goal)
            except NoGoal as error:
                without, suits = without + 1, False
                if without == PATIENCE and not tasks:
                    raise UserError(f"no goal in {without} episodes: {error}") from None
            except ValueError as error:
                raise UserError(str(error)) from None
            if suits:
                tasks.append(each)
            bar.update(int(suits), **({"without a goal": without} if without else {}))
            if len(tasks) == count:
                return tasks
    raise UserError(
        f"only {len(tasks)} of {count} tasks were unsolved at their start and suit the guardrails"
        f"{f' ({without} seeds had no goal)' if without else ''}: "
        f"use a larger goal_offset than {goal_offset}, or other guardrails"
    )


def _sample_task(
    env: gym.Env[Any, Any], env_seed: int, goal_offset: int, goal_image: Array | None
) -> GoalTask:
    """The task of one seed of the environment; with a goal image, from the environment's own
    start."""
    if goal_image is None:
        start, goal = task_of(env).sample_task(env_seed, goal_offset)
        return GoalTask(start, goal, env_seed)
    start = env.reset(seed=env_seed)[1]["state"]
    return GoalTask(start, start, env_seed, goal_image)


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
    fit = env.get_wrapper_attr("image_fit") if env.has_wrapper_attr("image_fit") else "stretch"
    return resized(task_of(env).render_state(state), size, fit)


def render_goal(env: gym.Env[Any, Any], task: GoalTask) -> Array:
    """The goal image of a task, uint8 ``[H, W, 3]``."""
    return render(env, task.goal_state) if task.goal_image is None else task.goal_image
