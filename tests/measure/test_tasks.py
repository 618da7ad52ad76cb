"""Sampled tasks: held out, unsolved at their start, repeatable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from worldmodel.data.collection import episode_seed
from worldmodel.errors import UserError
from worldmodel.measure.environments import make_env
from worldmodel.measure.tasks import sample_tasks


@pytest.mark.parametrize("name", ["pusht", "maze"])
def test_tasks_are_held_out_unsolved_and_repeatable(
    name: str, request: pytest.FixtureRequest
) -> None:
    env = request.getfixturevalue(name)
    some, same = (sample_tasks(env, 6, 3, 25) for _ in range(2))
    other = sample_tasks(env, 6, 4, 25)
    for a, b, c in zip(some, same, other, strict=True):
        np.testing.assert_array_equal(a.start_state, b.start_state)
        np.testing.assert_array_equal(a.goal_state, b.goal_state)
        assert (a.start_state != c.start_state).any()
        assert not env.unwrapped.success(a.start_state, a.goal_state)
    recorded = {episode_seed(seed, index) for seed in range(5) for index in range(100)}
    assert not recorded & {task.env_seed for task in [*some, *other]}
    assert min(task.env_seed for task in some) > max(recorded)
    assert len({task.env_seed for task in [*some, *other]}) == 12
    fewer = sample_tasks(env, 3, 3, 25)  # the first tasks do not depend on the count
    assert [task.env_seed for task in fewer] == [task.env_seed for task in some[:3]]


def test_pusht_goals_lie_within_reach(pusht: Any) -> None:
    for offset, farthest in ((5, 5 * 0.03), (25, 25 * 0.03)):
        moved = [
            np.linalg.norm(task.goal_state[:2] - task.start_state[:2])
            for task in sample_tasks(pusht, 5, 0, offset)
        ]
        assert 0.01 < max(moved) < farthest


def test_impossible_tasks_are_refused(pusht: Any) -> None:
    with pytest.raises(UserError, match="goal_offset is 0"):
        sample_tasks(pusht, 1, 0, 0)
    with pytest.raises(UserError, match="cannot make 0 tasks"):
        sample_tasks(pusht, 0, 0, 25)
    with pytest.raises(UserError, match="no environment"):
        make_env("worldmodel/PushTee-v0", {})
    with pytest.raises(UserError, match="no environment 'nowhere:Maze-v0'"):
        make_env("nowhere:Maze-v0", {})
    with pytest.raises(UserError, match="cannot make .*layout is 'V'"):
        make_env("envs:worldmodel/Maze-v0", {"layout": "V"})
    with pytest.raises(UserError, match="CartPole-v1: what counts as a success is not known"):
        make_env("CartPole-v1", {})


def test_goals_of_chips_are_those_that_resetting_draws(chips: Any) -> None:
    some = sample_tasks(chips, 3, 0, 25)
    for task in some:
        _, info = chips.reset(seed=task.env_seed)
        np.testing.assert_array_equal(info["goal_state"], task.goal_state)
        assert chips.unwrapped.chamfer(task.start_state, task.goal_state) > 1
