"""Success and further results of episodes, from true states that no agent sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.task import task_of
from worldmodel.errors import UserError
from worldmodel.measure.statistics import mean_interval, rate_interval
from worldmodel.measure.tasks import GoalTask

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Results of n episodes.

    Attributes:
        success_any: whether the goal was reached after any step, bool ``[n]``.
        success_final: whether it was reached after the last step, bool ``[n]``.
        metrics: the task's own results by name, bool or float ``[n]``.
    """

    success_any: Array
    success_final: Array
    metrics: dict[str, Array] = field(default_factory=dict)

    def metric_intervals(self) -> dict[str, dict[str, float]]:
        """Rates of boolean metrics and means of numbers, each with its interval."""
        return {
            name: rate_interval(values) if values.dtype == bool else mean_interval(values)
            for name, values in self.metrics.items()
        }


def measure_outcomes(
    env: gym.Env[Any, Any], paths: Sequence[Array], tasks: Sequence[GoalTask]
) -> Outcomes:
    """The outcomes of episodes.

    Args:
        env: its `envs.task.Task` defines success.
        paths: states of each episode ``[steps + 1, Ds]``, from the start on.
        tasks: their goals.
    """
    task = task_of(env)
    pairs = [(path, each.goal_state) for path, each in zip(paths, tasks, strict=True)]
    reached = np.array([[task.success(state, goal) for state in path[1:]] for path, goal in pairs])
    metrics = [task.metrics(path, goal) for path, goal in pairs]
    return Outcomes(
        np.any(reached, 1),
        reached[:, -1],
        {name: np.array([each[name] for each in metrics]) for name in metrics[0]},
    )


def episode_outcome(
    env: gym.Env[Any, Any], states: Sequence[Array], goal_state: Array
) -> dict[str, Any]:
    """Success of one episode: before the first step, after any step, after which first, and after
    the last."""
    return goals_outcome(env, states, [goal_state])


def goals_outcome(
    env: gym.Env[Any, Any],
    states: Sequence[Array],
    goal_states: Sequence[Array],
    reach: str = "any",
) -> dict[str, Any]:
    """`episode_outcome` with several goals. Success is any of them, or with `reach` "each", the
    last one after all others in their order."""
    task, before = task_of(env), list(goal_states[:-1]) if reach == "each" else []
    last = goal_states[-1:] if reach == "each" else goal_states
    reached = []
    for state in states:
        while before and task.success(state, before[0]):
            before.pop(0)
        reached.append(not before and any(bool(task.success(state, goal)) for goal in last))
    first = next((step for step, yes in enumerate(reached) if yes and step), None)
    return {
        "success_at_start": reached[0],
        "success_any": first is not None,
        "first_success_step": first,
        "success_final": reached[-1],
    }


def outcome_text(outcome: Mapping[str, Any], steps: int) -> str:
    """What `episode_outcome` says of an episode of so many steps, in words."""
    if outcome.get("success_at_start"):  # reports of earlier versions do not tell
        text = f"goal reached before the first of {steps} steps"
    elif outcome["success_any"]:
        text = f"goal reached at step {outcome['first_success_step']} of {steps}"
    else:
        return f"goal not reached in {steps} steps"
    return text if outcome["success_final"] else f"{text}, and left again"


def task_distance(env: gym.Env[Any, Any], states: Array, goal: Array) -> Array:
    """The task's squared distance ``[...]`` of states ``[..., Ds]`` to a goal.

    Raises:
        UserError: the task has none.
    """
    try:
        distance: Array = task_of(env).distance(states, goal)
    except ValueError as error:
        raise UserError(str(error)) from None
    return distance
