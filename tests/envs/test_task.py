"""How a task is found, its defaults, and the error where there is none."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from make import Make

from envs.exploration import RandomWalk, explorer
from envs.task import Task, find_task, task_of


class Partial(gym.Wrapper[Any, Any, Any, Any], Task):
    """A task for exploration alone."""

    policies = ("explore", "circle", "random")


class Named(Task):
    state_names = ("arm_x", "arm_angle", "arm_vx", "omega", "layout_seed")


def test_a_task_is_the_outermost_layer_that_is_one(make: Make) -> None:
    env = make("Maze", image_size=16)
    assert task_of(env) is find_task(env) is env.unwrapped
    wrapped = Partial(env)
    assert find_task(gym.wrappers.ClipAction(wrapped)) is wrapped


def test_what_is_missing_is_named() -> None:
    pendulum = gym.make("Pendulum-v1")
    assert find_task(pendulum) is None
    with pytest.raises(ValueError, match="Pendulum-v1 has no envs.task.Task"):
        task_of(pendulum)
    message = (
        "the Task of Pendulum-v1 has no state_names, get_state, success, render_state, physics"
    )
    with pytest.raises(ValueError, match=message):
        task_of(Partial(pendulum))


def test_readings_are_what_an_image_shows() -> None:
    states = np.array([[0.5, np.pi / 2, 1.0, 2.0, 7.0]])
    found = Named().readings(states)
    assert list(found) == ["arm_x", "sin arm_angle", "cos arm_angle"]
    np.testing.assert_allclose([found[name][0] for name in found], [0.5, 1.0, 0.0], atol=1e-9)


def test_a_task_without_distance_says_how_to_do_without() -> None:
    with pytest.raises(ValueError, match=r"Named has no distance\(\): use --ceiling.episodes 0"):
        Named().distance(np.zeros(5), np.zeros(5))


def test_explorers_are_chosen_by_name(make: Make) -> None:
    rng = np.random.default_rng(0)
    assert isinstance(explorer(make("PushT", image_size=16), "random", rng), RandomWalk)
    assert not isinstance(explorer(make("PushT", image_size=16), "explore", rng), RandomWalk)
    assert isinstance(explorer(gym.make("Pendulum-v1"), "explore", rng), RandomWalk)
    with pytest.raises(ValueError, match="policy is 'wild'; choose one of explore, random"):
        explorer(gym.make("Pendulum-v1"), "wild", rng)
    with pytest.raises(ValueError, match="policies need a Box"):
        explorer(gym.make("CartPole-v1"), "random", rng)


def test_goals_of_a_task_lie_ahead_of_the_start(make: Make) -> None:
    task: Any = task_of(make("PushT", image_size=16))
    start, goal = task.sample_task(2**32 + 5, 10)
    again, same = task.sample_task(2**32 + 5, 10)
    np.testing.assert_array_equal((start, goal), (again, same))
    assert 0 < np.linalg.norm(goal[:2] - start[:2]) <= 10 * 0.03
