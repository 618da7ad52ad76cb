"""What all bundled environments share: exact resets, repeatability, rendering, errors."""

from __future__ import annotations

import subprocess
import sys
import warnings
from ctypes import ArgumentError
from typing import Any
from unittest.mock import Mock

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from make import Make
from worlds import each, explore

from envs.exploration import explorer
from envs.maze import MazeEnv
from envs.pusht import PushTEnv


# ------------------------------------------------------------------------------------ Gymnasium
@each
def test_gymnasiums_checker_passes(make: Make, name: str, kwargs: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(name, **kwargs).unwrapped)


@each
def test_what_reset_and_step_return(make: Make, name: str, kwargs: dict[str, Any]) -> None:
    env = make(name, image_size=64, **kwargs)
    obs, info = env.reset(seed=0)
    after, reward, terminated, truncated, later = env.step(env.action_space.sample())
    assert set(info) == set(later) >= {"state", "goal_state", "is_success", "contact"}
    assert obs["pixels"].shape == (64, 64, 3) and obs["pixels"].dtype == np.uint8
    assert obs["proprio"].dtype == np.float32
    assert info["state"].dtype == info["goal_state"].dtype == np.float64
    assert type(info["is_success"]) is bool and type(later["contact"]) is bool
    assert not terminated and not truncated and reward == float(later["is_success"])
    assert env.observation_space.contains(after)
    world: Any = env.unwrapped
    assert info["state"].shape == (len(world.state_names),)
    np.testing.assert_array_equal(env.render(), after["pixels"])


@each
def test_success_is_being_at_the_goal(make: Make, name: str, kwargs: dict[str, Any]) -> None:
    env = make(name, image_size=32, **kwargs)
    _, info = env.reset(seed=5)
    assert not info["is_success"]
    goal = info["goal_state"]
    _, info = env.reset(seed=5, options={"state": goal, "goal_state": goal})
    assert info["is_success"]
    assert env.step(np.zeros(env.action_space.shape, np.float32))[1] == 1.0


def test_the_time_limit_is_the_callers(make: Make) -> None:
    env = make("Maze", image_size=32, max_episode_steps=3)
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, np.float32))[3] for _ in range(3)]
    assert ends == [False, False, True]


# --------------------------------------------------------------------------------- repeatability
@each
def test_same_seed_same_trajectory(make: Make, name: str, kwargs: dict[str, Any]) -> None:
    one, two = make(name, **kwargs), make(name, **kwargs)
    two.reset(seed=99)  # another past
    actions, seen = explore(one, 7, 25)
    _, again = explore(two, 7, 25)
    for (obs, info), (obs2, info2) in zip(seen, again, strict=True):
        np.testing.assert_array_equal(info["state"], info2["state"])
        np.testing.assert_array_equal(info["goal_state"], info2["goal_state"])
        np.testing.assert_array_equal(obs["pixels"], obs2["pixels"])
    _, other = explore(one, 8, 0)
    assert not np.array_equal(other[0][1]["state"], seen[0][1]["state"])


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_same_trajectory_in_vector_environments(make: Make, mode: str) -> None:
    env = make("PushT", image_size=48)
    # Rendering before the fork must not hang the workers.
    actions, seen = explore(env, 11, 15)
    vector = gym.make_vec(
        "envs:worldmodel/PushT-v0", num_envs=2, vectorization_mode=mode, image_size=48
    )
    try:
        obs, info = vector.reset(seed=[3, 11])
        for t, action in enumerate(actions):
            np.testing.assert_array_equal(obs["pixels"][1], seen[t][0]["pixels"])
            np.testing.assert_array_equal(info["state"][1], seen[t][1]["state"])
            obs, _, _, _, info = vector.step(np.stack([action, action]))
        assert not np.array_equal(obs["pixels"][0], obs["pixels"][1])
    finally:
        vector.close()


# -------------------------------------------------------------------------------- states
@each
def test_reset_restores_a_state_exactly(make: Make, name: str, kwargs: dict[str, Any]) -> None:
    env = make(name, **kwargs)
    _, seen = explore(env, 1, 30)
    for t in (4, 17, 30):  # in motion, and in contact
        state, goal = seen[t][1]["state"], seen[0][1]["goal_state"]
        obs, info = env.reset(seed=50 + t, options={"state": state, "goal_state": goal})
        np.testing.assert_array_equal(info["state"], state)
        np.testing.assert_array_equal(info["goal_state"], goal)
        np.testing.assert_array_equal(obs["proprio"], seen[t][0]["proprio"])
        # Push-T's block may stand half a millimetre higher when pushed: invisible from above.
        np.testing.assert_array_equal(obs["pixels"], seen[t][0]["pixels"])


def test_a_given_state_does_not_change_the_goal(make: Make) -> None:
    env = make("PushT", image_size=32)
    _, plain = env.reset(seed=4)
    state = np.array([0.1, 0.1, 0.3, 0.3, 0, 0, 0, 0, 0, 0])
    _, info = env.reset(seed=4, options={"state": state})
    np.testing.assert_array_equal(info["goal_state"], plain["goal_state"])


def test_a_maze_continues_exactly_from_a_state_in_motion(make: Make) -> None:
    env = make("Maze", layout="random", image_size=32)
    actions, seen = explore(env, 2, 40)
    world: Any = env.unwrapped
    states = world.physics(seen[10][1]["state"], np.array(actions[10:]))
    np.testing.assert_allclose(states, [info["state"] for _, info in seen[10:]], atol=1e-9)


def test_push_t_follows_the_original_closely_from_a_state_in_motion(make: Make) -> None:
    """The state leaves out how deep the block's feet have sunk, and contact magnifies the
    difference. So the replay is nearly always close, not equal."""
    env = make("PushT", image_size=32)
    world: Any = env.unwrapped
    errors = []
    for seed in range(12):
        actions, seen = explore(env, seed, 20)
        replayed = world.physics(seen[15][1]["state"], np.array(actions[15:]))
        original = np.array([info["state"] for _, info in seen[15:]])
        errors.append(np.abs(replayed - original)[:, :4].max())
    assert np.median(errors) < 1e-3  # metres
    assert np.mean(np.array(errors) < 0.01) > 0.8


@each
def test_physics_is_step_without_rendering(make: Make, name: str, kwargs: dict[str, Any]) -> None:
    env = make(name, image_size=32, **kwargs)
    actions, seen = explore(env, 3, 20)
    start = seen[12][1]["state"]
    env.reset(seed=0, options={"state": start})
    stepped = [start, *(env.step(a)[4]["state"] for a in actions)]
    other: Any = make(name, image_size=32, **kwargs).unwrapped
    np.testing.assert_array_equal(other.physics(start, np.array(actions)), stepped)


@pytest.mark.slow
@each
def test_physics_and_rendering_do_not_disturb_the_episode(
    make: Make, name: str, kwargs: dict[str, Any]
) -> None:
    env, spied = make(name, **kwargs), make(name, **kwargs)
    actions, seen = explore(env, 6, 25)
    spy: Any = spied.unwrapped
    spied.reset(seed=6)
    for action, (obs, info) in zip(actions, seen[1:], strict=True):
        spy.render_state(info["goal_state"])
        spy.physics(info["goal_state"], np.array(actions[:3]))
        np.testing.assert_array_equal(spied.render(), spied.render())
        seen_obs, _, _, _, seen_info = spied.step(action)
        np.testing.assert_array_equal(seen_info["state"], info["state"])
        np.testing.assert_array_equal(seen_obs["pixels"], obs["pixels"])
        assert seen_info["contact"] == info["contact"]


def test_render_state_shows_that_state(make: Make) -> None:
    env = make("PushT")
    obs, info = env.reset(seed=0)
    world: Any = env.unwrapped
    np.testing.assert_array_equal(world.render_state(info["state"]), obs["pixels"])
    turned = info["state"].copy()
    turned[4] += 0.3
    assert not np.array_equal(world.render_state(turned), obs["pixels"])


# ------------------------------------------------------------------------------------- bad input
@each
@pytest.mark.parametrize("action", [[np.nan, 0.0], [np.inf, 0.0], [0.0], [[0.0, 0.0]], 0.0])
def test_invalid_actions_are_refused(
    make: Make, name: str, kwargs: dict[str, Any], action: Any
) -> None:
    env = make(name, image_size=16, disable_env_checker=True, **kwargs)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"expected \d finite numbers"):
        env.step(np.array(action))


@each
def test_actions_are_clipped_to_their_bounds(make: Make, name: str, kwargs: dict[str, Any]) -> None:
    env = make(name, image_size=16, **kwargs)
    _, info = env.reset(seed=0)
    world: Any = env.unwrapped
    high = env.action_space.high  # type: ignore[attr-defined]
    within = world.physics(info["state"], np.tile(high, (5, 1)))
    np.testing.assert_array_equal(world.physics(info["state"], np.tile(high * 9, (5, 1))), within)
    assert not np.array_equal(world.physics(info["state"], np.tile(high / 2, (5, 1))), within)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("PushT", {"sate": 1}, "unknown reset options.*sate"),
        ("PushT", {"state": np.zeros(3)}, r"state has shape \(3,\).*10 .*pusher_x"),
        ("PushT", {"goal_state": np.full(10, np.nan)}, "goal_state .*finite"),
        ("Maze", {"state": np.zeros(4)}, r"shape \(4,\).*layout_seed"),
        ("Maze", {"state": [0.4, 0.9, 0, 0, 3]}, "layout_seed is 3.0"),
        ("PushT", {"variation": "colour"}, "PushTEnv has no variation 'colour'; use background"),
        ("Maze", {"variation": ["light", "friction"]}, "MazeEnv has no variation 'friction'"),
    ],
)
def test_bad_reset_options_are_refused(
    make: Make, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(name, image_size=16).reset(seed=0, options=options)


@pytest.mark.parametrize(
    ("make_env", "message"),
    [
        (lambda: MazeEnv(layout="large"), "layout is 'large'; choose one of .*medium"),
        (lambda: MazeEnv(image_size=4), "image_size is 4"),
        (lambda: PushTEnv(image_size=5000), "image_size is 5000"),
        (lambda: PushTEnv(render_mode="human"), "render_mode is 'human'"),
        (lambda: explorer(PushTEnv(), "best", np.random.default_rng(0)), "policy is 'best'"),
        (lambda: explorer(gym.make("CartPole-v1"), "random", np.random.default_rng(0)), "Box"),
    ],
)
def test_bad_arguments_are_refused(make_env: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_env()


def test_rendering_does_not_depend_on_what_was_imported_first() -> None:
    """Gymnasium's checker imports mujoco before the environment can choose its OpenGL library."""
    code = (
        "import mujoco, gymnasium; env = gymnasium.make('envs:worldmodel/Maze-v0');"
        "print(env.reset(seed=0)[0]['pixels'].std() > 0); env.close()"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.stdout == "True\n", run.stderr


def test_ctrl_c_during_a_call_of_opengl_stays_ctrl_c(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make("PushT", image_size=32)
    env.reset(seed=0)
    world: Any = env.unwrapped
    for reason, seen in (("KeyboardInterrupt: ", KeyboardInterrupt), ("int: ", ArgumentError)):
        error = ArgumentError(f"argument 1: {reason}")
        with monkeypatch.context() as patch:
            patch.setattr(world._camera, "context", Mock(make_current=Mock(side_effect=error)))
            with pytest.raises(seen):
                world.render()
