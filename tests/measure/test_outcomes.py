"""Success and metrics of episodes, from true states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from worldmodel.measure.outcomes import (
    episode_outcome,
    goals_outcome,
    measure_outcomes,
    task_distance,
)
from worldmodel.measure.tasks import GoalTask


def test_success_at_any_time_and_at_the_end_and_of_the_block_alone(pusht: Any) -> None:
    goal = np.array([0.1, 0.1, 0.3, 0.3, 0.5, 0, 0, 0, 0, 0])
    away, pusher_away = goal.copy(), goal.copy()
    away[2] += 0.2
    pusher_away[0] += 0.2
    paths = [
        np.stack([away, goal, away]),  # reached, then left
        np.stack([away, away, goal]),
        np.stack([goal, away, away]),  # only at the start, which does not count
        np.stack([away, away, pusher_away]),
    ]
    outcomes = measure_outcomes(pusht, paths, [GoalTask(away, goal, 0)] * 4)
    assert outcomes.success_any.tolist() == [True, True, False, False]
    assert outcomes.success_final.tolist() == [False, True, False, False]
    assert outcomes.metrics["block_success_any"].tolist() == [True, True, False, True]
    assert outcomes.metrics["block_success_final"].tolist() == [False, True, False, True]


def test_the_task_distance_is_one_where_success_ends(pusht: Any, maze: Any) -> None:
    goal = np.array([0.1, 0.1, 0.3, 0.3, np.pi - 0.01, 0, 0, 0, 0, 0])
    at = np.stack([goal] * 3)
    at[1, 0] += 0.02
    at[2, 4] = -np.pi - 0.01 + np.deg2rad(20)  # across the seam of the angle
    distance = task_distance(pusht, at, goal)
    np.testing.assert_allclose(distance, [0, 1, 1], atol=1e-6)
    goal = np.array([0.4, 0.4, 0, 0, 1])
    there = goal + [0.125, 0, 5, 5, 0]
    assert task_distance(maze, there, goal) == pytest.approx(1)


def test_metrics_of_chips_are_their_distances_before_and_after(chips: Any) -> None:
    goal = np.array([0.2, 0.2, 0.1, 0.1, 0.2, 0.1, 0.3, 0.1])
    away, apart = goal.copy(), goal.copy()
    away[[3, 5, 7]] += 0.036  # each is two chip widths away
    apart[:2] += 0.1  # the position of the blade does not matter
    paths = [np.stack([away, apart, away]), np.stack([away, away, apart])]
    outcomes = measure_outcomes(chips, paths, [GoalTask(away, goal, 0)] * 2)
    assert outcomes.success_any.tolist() == [True, True]
    assert outcomes.success_final.tolist() == [False, True]
    np.testing.assert_allclose(outcomes.metrics["chamfer_start"], [4, 4])
    np.testing.assert_allclose(outcomes.metrics["chamfer_final"], [4, 0])
    np.testing.assert_allclose(task_distance(chips, paths[0], goal), [16, 0, 16])


def test_the_outcome_names_the_first_success(maze: Any) -> None:
    goal = np.array([0.4, 0.4, 0, 0, 0])
    away = goal + [0.5, 0, 0, 0, 0]
    for path, *expected in (
        ([away, away, goal, away, goal], False, True, 2, True),
        ([away, goal, away], False, True, 1, False),
        ([away, away], False, False, None, False),
        ([goal, goal, away], True, True, 1, False),
    ):
        names = ("success_at_start", "success_any", "first_success_step", "success_final")
        assert episode_outcome(maze, path, goal) == dict(zip(names, expected, strict=True))


@pytest.mark.parametrize(
    ("path", "any_", "each"),
    [("abca", 1, 3), ("cbba", 1, 3), ("acac", 2, None), ("bbcc", 1, None), ("cccc", None, None)],
)
def test_success_with_several_goals(
    maze: Any, path: str, any_: int | None, each: int | None
) -> None:
    """Goals b and a: any of them, or a after b. The first success, by the places of a path."""
    places = {name: np.array([0.3 * i, 0.4, 0, 0, 0]) for i, name in enumerate("abc")}
    goals = [places["b"], places["a"]]
    states = [places[name] for name in path]
    for reach, first in (("any", any_), ("each", each)):
        found = goals_outcome(maze, states, goals, reach)
        assert found["first_success_step"] == first, reach
        assert found["success_any"] == (first is not None)
