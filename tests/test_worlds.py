"""Worlds of other packages in examples/worlds. A world whose package is missing is skipped."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from envs.exploration import explorer
from envs.task import task_of
from envs.worlds import MujocoWorld
from worldmodel.data.collection import collect
from worldmodel.data.recording import CollectConfig
from worldmodel.measure.environments import make_env
from worldmodel.measure.outcomes import measure_outcomes
from worldmodel.measure.rollouts import run_random
from worldmodel.measure.tasks import sample_tasks

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # last: the project's packages are those that are installed

PACKAGES = {
    "PushT": "gym_pusht",
    "PointMazeU": "gymnasium_robotics",
    "PointMazeMedium": "gymnasium_robotics",
    "Reacher": "gymnasium",
    "Pusher": "gymnasium",
    "TwoRooms": "numpy",
}
MARKERS = {"PointMazeU": "target", "Reacher": "target", "Pusher": "goal"}


def load(name: str) -> gym.Env[Any, Any]:
    package = PACKAGES[name]
    pytest.importorskip(package, reason=f"{name} needs {package}: pip install '.[worlds]'")
    return make_env(f"examples.worlds:worlds/{name}-v0", {})


@pytest.fixture(scope="module", params=PACKAGES)
def world(request: pytest.FixtureRequest) -> Iterator[gym.Env[Any, Any]]:
    env = load(request.param)
    yield env
    env.close()


def explore(env: gym.Env[Any, Any], seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """States ``[steps + 1, Ds]`` and actions ``[steps, A]`` of exploration, without rendering."""
    task = task_of(env)
    env.reset(seed=seed)
    states, actions = [task.get_state()], []
    policy = explorer(env, "explore", np.random.default_rng(seed))
    for _ in range(steps):
        actions.append(task._clipped(policy(None, {"state": states[-1]})))
        task.advance(actions[-1])
        states.append(task.get_state())
    return np.array(states), np.array(actions)


# ------------------------------------------------------------------------------------ all worlds
def test_a_state_is_restored_with_the_same_picture(world: gym.Env[Any, Any]) -> None:
    task = task_of(world)
    states, actions = explore(world, 1, 30)
    pixels = task.render_state(states[20])
    obs, info = world.reset(seed=7, options={"state": states[20]})
    np.testing.assert_array_equal(obs["pixels"], pixels)
    np.testing.assert_allclose(info["state"], states[20], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(task.observe_state(states[20])["proprio"], obs["proprio"])
    assert world.observation_space.contains(obs)
    assert not np.array_equal(task.render_state(states[0]), pixels)


def test_replayed_actions_lead_to_the_same_state(world: gym.Env[Any, Any]) -> None:
    task = task_of(world)
    states, actions = explore(world, 2, 30)
    replayed = task.physics(states[0], actions)
    np.testing.assert_array_equal(task.physics(states[0], actions), replayed)
    world.reset(seed=9, options={"state": states[0]})
    stepped = [world.step(action)[4]["state"] for action in actions]
    np.testing.assert_array_equal(stepped, replayed[1:])


def test_looking_at_other_states_does_not_disturb_the_episode(world: gym.Env[Any, Any]) -> None:
    task = task_of(world)
    states, actions = explore(world, 3, 20)
    world.reset(options={"state": states[0]})
    for action, state in zip(actions, task.physics(states[0], actions)[1:], strict=True):
        task.render_state(states[-1])
        task.physics(states[-1], actions[:2])
        np.testing.assert_allclose(world.step(action)[4]["state"], state, rtol=0, atol=2e-3)


def test_success_is_being_at_the_goal(world: gym.Env[Any, Any]) -> None:
    task = task_of(world)
    tasks = sample_tasks(world, 3, 0, 25)
    again = sample_tasks(world, 3, 0, 25)
    for each, same in zip(tasks, again, strict=True):
        np.testing.assert_array_equal(each.goal_state, same.goal_state)
        assert task.success(each.goal_state, each.goal_state)
        assert not task.success(each.start_state, each.goal_state)
        distances = task.distance(np.stack([each.start_state, each.goal_state]), each.goal_state)
        assert distances[0] >= 1 and distances[1] == 0


def test_the_random_floor_is_measured(world: gym.Env[Any, Any]) -> None:
    tasks = sample_tasks(world, 2, 1, 25)
    paths = run_random(world, tasks, 10, 0)
    outcomes = measure_outcomes(world, paths, tasks)
    assert np.shape(paths) == (2, 11, len(task_of(world).state_names))
    assert len(outcomes.success_any) == 2


def test_proprio_is_named(world: gym.Env[Any, Any]) -> None:
    task = task_of(world)
    assert 0 < len(task.proprio_names) == world.observation_space["proprio"].shape[0]  # type: ignore[index]
    world.reset(seed=0)
    task.proprio_names, names = (*task.proprio_names, "mood"), task.proprio_names
    with pytest.raises(ValueError, match="proprio has no 'mood'; the state has "):
        task.proprio()
    task.proprio_names = names


def test_unknown_reset_options_are_refused(world: gym.Env[Any, Any]) -> None:
    with pytest.raises(ValueError, match="has no variation 'light'"):
        world.reset(options={"variation": ["light"]})
    with pytest.raises(ValueError, match="unknown reset options.*sate"):
        world.reset(options={"sate": 1})
    with pytest.raises(ValueError, match="finite numbers"):
        world.reset(options={"goal_state": [0.0]})


def test_an_episode_may_have_a_goal(world: gym.Env[Any, Any]) -> None:
    task = sample_tasks(world, 1, 2, 25)[0]
    goal = {"goal_state": task.goal_state}
    info = world.reset(options={"state": task.start_state, **goal})[1]
    assert not info["is_success"]
    info = world.reset(options={"state": task.goal_state, **goal})[1]
    assert info["is_success"] and np.array_equal(info["goal_state"], task.goal_state)
    assert "is_success" not in world.reset()[1]


# ----------------------------------------------------------------------------------- some worlds
@pytest.mark.parametrize("name", ["PushT", "TwoRooms"])
def test_a_world_is_collected_by_its_id(name: str, tmp_path: Path) -> None:
    load(name).close()
    env = f"examples.worlds:worlds/{name}-v0"
    result = collect(CollectConfig(env, tmp_path / "data", episodes=2, steps=5, workers=1))
    assert result["frames"] == 12


@pytest.mark.parametrize("name", MARKERS)
def test_markers_of_the_worlds_own_goal_are_hidden(name: str) -> None:
    env = load(name)
    task: Any = task_of(env)
    pixels = env.reset(seed=0)[0]["pixels"]
    site = name == "PointMazeU"
    position = (task.model.site if site else task.model.body)(MARKERS[name]).pos
    position[:2] -= 0.05
    np.testing.assert_array_equal(task.render_state(task.get_state()), pixels)
    groups = task.model.site_group if site else task.model.geom_group
    groups[:] = 0
    assert not np.array_equal(task.render_state(task.get_state()), pixels)
    env.close()


def test_push_t_shows_no_goal_and_hold_stays() -> None:
    env = load("PushT")
    obs, info = env.reset(seed=0)
    red, green, blue = np.moveaxis(obs["pixels"].astype(int), -1, 0)
    assert (green <= np.maximum(red, blue) + 20).all()  # the goal is light green
    task = task_of(env)
    moved = task.physics(info["state"], np.tile(task.hold(obs), (10, 1)))[-1] - info["state"]
    np.testing.assert_allclose(moved[:2], 0, atol=1e-4)
    env.close()


def test_exploration_moves_the_block_of_push_t() -> None:
    env = load("PushT")
    blocks = np.stack([explore(env, seed, 60)[0][:, 2:5] for seed in range(12)])
    moved = np.abs(np.diff(blocks, axis=1)).max(-1) > 5e-4  # half a pixel, or 0.03 degrees
    assert moved.mean() > 0.3
    env.close()


def test_exploration_pushes_the_object_of_pusher() -> None:
    env = load("Pusher")
    task = task_of(env)
    ends = np.stack([explore(env, seed, 100)[0][[0, -1]] for seed in range(12)])
    moved = np.linalg.norm(np.diff(task.places(ends), axis=1), axis=-1)
    assert (moved > task.tolerance).mean() > 0.4
    env.close()


def test_two_rooms_are_joined_by_the_door_only() -> None:
    env = load("TwoRooms")
    task = task_of(env)
    env.reset(seed=0)
    right = np.tile([4.0, 0.0], (20, 1))
    through, stopped = (task.physics([10.0, y], right)[-1, 0] for y in (42.0, 20.0))
    assert through > 32 > stopped
    env.close()


# --------------------------------------------------------------------------------------- library
def test_a_joint_with_several_degrees_of_freedom_is_refused() -> None:
    class Ant(MujocoWorld):
        world_id = "Ant-v5"

    with pytest.raises(ValueError, match="joint 'root' is neither a hinge nor a slide"):
        Ant()


def code_lines(path: Path) -> int:
    """Lines of code, without docstrings, comments and blank lines."""
    text = path.read_text()
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    prose: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            prose |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = [line.strip() for line in text.splitlines()]
    return sum(
        bool(line) and not line.startswith("#") and number not in prose
        for number, line in enumerate(lines, 1)
    )


def test_a_wrapper_of_another_packages_world_is_short() -> None:
    counts = {path.name: code_lines(path) for path in (ROOT / "examples/worlds").glob("*.py")}
    built = counts.pop("two_rooms.py")  # no wrapper: the whole world
    assert built <= 40 and max(counts.values()) <= 30, counts
