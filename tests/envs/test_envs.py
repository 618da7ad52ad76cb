"""The environments: exact resets, repeatability, physics, errors."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from make import Make

from envs.chips import CHIP, TRAY, GranularChipsEnv
from envs.exploration import explorer
from envs.maze import CELL, LAYOUTS, MAX_SPEED, RADIUS, MazeEnv, _random_layout
from envs.pusht import MAX_STEP, PUSHER_RADIUS, WORKSPACE, PushTEnv

ALL = [
    ("PushT", {}),
    ("Maze", {"layout": "U"}),
    ("Maze", {"layout": "medium"}),
    ("Maze", {"layout": "random"}),
    ("GranularChips", {"chips": 20}),
]
each = pytest.mark.parametrize(
    ("name", "kwargs"), ALL, ids=["pusht", "U", "medium", "random", "chips"]
)


def explore(env: gym.Env[Any, Any], seed: int, steps: int) -> tuple[list[Any], list[Any]]:
    """Actions and (obs, info) of an exploration episode."""
    policy = explorer(env, "explore", np.random.default_rng(seed))
    actions, seen = [], [env.reset(seed=seed)]
    for _ in range(steps):
        actions.append(policy(*seen[-1]))
        obs, _, _, _, info = env.step(actions[-1])
        seen.append((obs, info))
    return actions, seen


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


# ------------------------------------------------------------------------------------ variations
@each
def test_variations_change_only_look_or_friction_until_the_next_reset(
    make: Make, name: str, kwargs: dict[str, Any]
) -> None:
    env = make(name, **kwargs)
    world: Any = env.unwrapped
    usual, info = env.reset(seed=2)
    actions = explore(env, 2, 20)[0]  # these touch the block
    path = world.physics(info["state"], np.stack(actions))
    for variation in world.variations:
        options = {"variation": variation}
        (changed, changed_info), (again, _) = (env.reset(seed=2, options=options) for _ in range(2))
        np.testing.assert_array_equal(changed["pixels"], again["pixels"])
        for key in ("state", "goal_state"):
            np.testing.assert_array_equal(changed_info[key], info[key])
        looks_same = np.array_equal(changed["pixels"], usual["pixels"])
        moves_same = np.array_equal(world.physics(info["state"], np.stack(actions)), path)
        assert (looks_same, moves_same) == (variation == "friction", variation != "friction")
        np.testing.assert_array_equal(world.render_state(info["state"]), changed["pixels"])
    after, _ = env.reset(seed=2)
    np.testing.assert_array_equal(after["pixels"], usual["pixels"])
    np.testing.assert_array_equal(world.physics(info["state"], np.stack(actions)), path)


def test_variations_combine_and_differ_between_episodes(make: Make) -> None:
    env = make("PushT")
    both = {"variation": ["background", "object"]}
    first, second = (env.reset(seed=seed, options=both)[0]["pixels"] for seed in (0, 1))
    corner = (slice(0, 8), slice(0, 8))
    assert (first[corner] != second[corner]).any()
    alone, _ = env.reset(seed=0, options={"variation": "background"})
    np.testing.assert_array_equal(alone["pixels"][corner], first[corner])
    assert (alone["pixels"] != first).any()


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


# ------------------------------------------------------------------------------------- Push-T
def push(world: Any, start: list[float], action: list[float], steps: int) -> np.ndarray:
    """States of a push, from pusher and block at rest."""
    states: np.ndarray = world.physics([*start, 0, 0, 0, 0, 0], np.tile(action, (steps, 1)))
    return states


def test_a_push_through_the_centre_of_mass_slides(make: Make) -> None:
    states = push(make("PushT").unwrapped, [0.2, 0.1, 0.2, 0.25, 0.0], [0.0, MAX_STEP], 20)
    moved = states[-1] - states[0]
    assert moved[3] > 0.05  # along the push
    assert abs(moved[2]) < 0.01 and abs(moved[4]) < 0.1  # and neither aside nor round


@pytest.mark.parametrize("side", [-1, 1])
def test_a_push_off_centre_rotates(make: Make, side: int) -> None:
    start = [0.25 + side * 0.045, 0.38, 0.25, 0.25, 0.0]
    states = push(make("PushT").unwrapped, start, [0.0, -MAX_STEP], 15)
    # Down on the right end of the bar turns the T clockwise, on the left end counter-clockwise.
    assert -side * (states[-1, 4] - states[0, 4]) > 0.2
    assert states[-1, 3] < states[0, 3] - 0.01


def test_friction_stops_the_block(make: Make) -> None:
    world: Any = make("PushT").unwrapped
    moving = [0.05, 0.05, 0.25, 0.25, 0.0, 0.0, 0.0, 0.3, 0.0, 2.0]
    states = world.physics(moving, np.zeros((15, 2)))
    assert states[-1, 2] > 0.255  # it slid
    assert np.abs(states[-1, 7:]).max() < 1e-3  # and came to rest
    assert np.abs(states[-1, :2] - states[0, :2]).max() < 1e-3  # the pusher had no part in it


def test_an_untouched_block_stays(make: Make) -> None:
    states = push(make("PushT").unwrapped, [0.05, 0.05, 0.3, 0.3, 1.0], [0.0, MAX_STEP], 20)
    np.testing.assert_allclose(states[:, 2:5], states[:1, 2:5].repeat(21, 0), atol=1e-4)


def test_the_pusher_goes_where_it_is_sent(make: Make) -> None:
    states = push(make("PushT").unwrapped, [0.1, 0.1, 0.4, 0.4, 0.0], [MAX_STEP, 0.0], 10)
    speed = np.diff(states[:, 0])
    assert (speed > 0).all() and (speed < MAX_STEP * 1.05).all()
    assert speed[3:].mean() > 0.6 * MAX_STEP
    np.testing.assert_allclose(states[:, 1], 0.1, atol=1e-4)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**31),
    actions=st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=6),
)
def test_pusher_and_block_stay_in_the_workspace(
    seed: int, actions: list[tuple[float, float]]
) -> None:
    world = PUSHT
    start = world.sample_state(np.random.default_rng(seed))
    held = np.repeat(np.array(actions) * MAX_STEP, 30, axis=0)
    states = world.physics(start, held)
    assert np.isfinite(states).all()
    slack = 0.005  # contacts give way a little
    assert (states[:, :2] > PUSHER_RADIUS - slack).all()
    assert (states[:, :2] < WORKSPACE - PUSHER_RADIUS + slack).all()
    assert (states[:, 2:4] > 0).all() and (states[:, 2:4] < WORKSPACE).all()


PUSHT = PushTEnv(image_size=16)


def test_success_in_push_t() -> None:
    goal = np.array([0.2, 0.2, 0.3, 0.3, 3.1, 0, 0, 0, 0, 0])

    def moved(**by: float) -> np.ndarray:
        state = goal.copy()
        for key, value in by.items():
            state[PushTEnv.state_names.index(key)] += value
        return state

    assert PUSHT.success(moved(block_angle=0.3), goal)  # over the seam at pi
    assert not PUSHT.success(moved(block_angle=0.4), goal)
    assert PUSHT.success(moved(block_x=0.019), goal)
    assert not PUSHT.success(moved(block_x=0.021), goal)
    assert not PUSHT.success(moved(block_x=0.015, pusher_y=0.015), goal)  # the 4-D norm
    assert PUSHT.block_success(moved(block_x=0.015, pusher_y=0.5), goal)
    assert PUSHT.success(moved(block_vx=1.0), goal)


# ------------------------------------------------------------------------------------------ maze
MAZES = {layout: MazeEnv(layout=layout, image_size=16) for layout in ("U", "medium", "random")}


def wall_cells(grid: list[str]) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in grid])


def in_wall(grid: list[str], position: np.ndarray) -> bool:
    """Whether the ball's centre at ``[2]`` lies in a wall, or outside."""
    column, row = int(position[0] // CELL), len(grid) - 1 - int(position[1] // CELL)
    inside = 0 <= row < len(grid) and 0 <= column < len(grid)
    return not inside or grid[row][column] == "#"


@settings(max_examples=40)
@given(
    layout=st.sampled_from(["U", "medium", "random"]),
    seed=st.integers(1, 2**31),
    actions=st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=12),
)
def test_the_ball_cannot_pass_walls(
    layout: str, seed: int, actions: list[tuple[float, float]]
) -> None:
    world = MAZES[layout]
    world.reset(seed=seed)
    start = world.get_state()
    grid = _random_layout(int(start[4])) if layout == "random" else LAYOUTS[layout]
    held = np.repeat(np.array(actions) * MAX_SPEED, 12, axis=0)
    for state in world.physics(start, held):
        assert not in_wall(grid, state[:2])
    # Its edge may press into a wall, but only by what a contact gives way.
    for direction in np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]):
        final = world.physics(start, np.tile(direction * MAX_SPEED, (40, 1)))[-1]
        assert not in_wall(grid, final[:2] + direction * (RADIUS - 0.01))


def test_the_ball_has_inertia() -> None:
    world = MAZES["U"]
    start = np.array([0.4, 0.875, 0, 0, 0])  # the left end of the upper corridor
    ahead = world.physics(start, np.tile([MAX_SPEED, 0.0], (4, 1)))
    assert 0 < ahead[1, 2] < 0.8 * MAX_SPEED  # not at once
    assert ahead[4, 2] == pytest.approx(MAX_SPEED, rel=0.1)  # but soon
    coasting = world.physics(ahead[4], np.zeros((6, 2)))
    assert coasting[1, 0] > coasting[0, 0] + 0.01 and abs(coasting[-1, 2]) < 0.05


@settings(max_examples=200)
@given(seed=st.integers(0, 2**31))
def test_random_layouts_are_connected_and_closed(seed: int) -> None:
    wall = wall_cells(_random_layout(seed))
    assert wall[0].all() and wall[-1].all() and wall[:, 0].all() and wall[:, -1].all()
    free = set(zip(*np.nonzero(~wall), strict=True))
    reached, frontier = set(), [next(iter(free))]
    while frontier:
        row, column = frontier.pop()
        reached.add((row, column))
        near = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)}
        frontier += near & free - reached
    assert reached == free and len(free) > 9


def test_random_layouts_differ_by_seed_and_come_back_with_the_state(make: Make) -> None:
    env = make("Maze", layout="random")
    views, states = [], []
    for seed in range(6):
        obs, info = env.reset(seed=seed)
        assert info["goal_state"][4] == info["state"][4]  # the goal lies in the same maze
        views.append(obs["pixels"])
        states.append(info["state"])
    assert len({state[4] for state in states}) == 6
    assert len({view.tobytes() for view in views}) == 6
    for seed in (3, 0, 5):
        obs, info = env.reset(seed=77, options={"state": states[seed]})
        np.testing.assert_array_equal(obs["pixels"], views[seed])
        # And the walls are real, not only drawn.
        grid = _random_layout(int(states[seed][4]))
        world: Any = env.unwrapped
        away = world.physics(states[seed], np.tile([MAX_SPEED, 0.0], (60, 1)))[-1]
        assert not in_wall(grid, away[:2])


@pytest.mark.parametrize("layout", ["U", "medium", "random"])
def test_starts_and_goals_are_free(layout: str) -> None:
    world = MAZES[layout]
    for seed in range(30):
        _, info = world.reset(seed=seed)
        grid = _random_layout(int(info["state"][4])) if layout == "random" else LAYOUTS[layout]
        for state in (info["state"], info["goal_state"]):
            for corner in RADIUS * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]):
                assert not in_wall(grid, state[:2] + corner)


def test_success_in_a_maze() -> None:
    goal = np.array([0.4, 0.4, 0, 0, 0])
    assert MAZES["U"].success(goal + [0.12, 0, 0, 0, 0], goal)
    assert not MAZES["U"].success(goal + [0.13, 0, 0, 0, 0], goal)
    assert not MAZES["random"].success(goal + [0, 0, 0, 0, 1], goal)  # another maze


# ---------------------------------------------------------------------------------------- chips
CHIPS = GranularChipsEnv(chips=30, image_size=16)


def chips_of(state: np.ndarray) -> np.ndarray:
    return state[2:].reshape(-1, 2)


def nearest(places: np.ndarray) -> float:
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return float((distances + np.eye(len(places))).min())


def test_a_stroke_moves_only_chips_before_the_blade() -> None:
    world = GranularChipsEnv(chips=3, image_size=16)
    state = np.array([0.25, 0.25, 0.2, 0.2, 0.2, 0.22, 0.4, 0.4])
    path = world.physics(state, np.array([[0.15, 0.2, 0.3, 0.2]]))
    pushed, still = chips_of(path[1])[:2], chips_of(path[1])[2]
    # The blade's face ends at x = 0.304 m; a chip slides on by a few millimetres.
    assert ((pushed[:, 0] > 0.308) & (pushed[:, 0] < 0.34)).all()
    np.testing.assert_allclose(pushed[:, 1], [0.2, 0.22], atol=0.003)
    np.testing.assert_array_equal(still, [0.4, 0.4])
    np.testing.assert_allclose(path[1][:2], [0.3, 0.2], atol=1e-7)


def test_a_stroke_of_no_length_moves_nothing() -> None:
    world = GranularChipsEnv(chips=10, image_size=16)
    state = world.sample_state(np.random.default_rng(0))
    chip = chips_of(state)[0]
    after = world.physics(state, np.array([[*chip, *chip]]))[1]
    np.testing.assert_array_equal(chips_of(after), chips_of(state))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_chips_stay_in_the_tray_and_do_not_overlap(seed: int) -> None:
    world = CHIPS
    rng = np.random.default_rng(seed)
    start = world.sample_state(rng)
    strokes = rng.uniform(0.0, TRAY, (4, 4))
    for state in world.physics(start, strokes):
        places = chips_of(state)
        assert (places >= CHIP / 2 - 1e-9).all() and (places <= TRAY - CHIP / 2 + 1e-9).all()
        assert nearest(places) > 0.6 * CHIP  # pressed into a corner, contacts give way


def test_strokes_do_not_eject_chips() -> None:
    """Pushing into a pile once made the solver explode: chips behind the blade stay there."""
    rng = np.random.default_rng(0)
    world = GranularChipsEnv(start="pile", image_size=16)
    for _ in range(5):
        state = world.sample_state(rng)
        middle = chips_of(state).mean(0)
        way = np.array([0.0, 0.08]) if middle[1] < TRAY / 2 else np.array([0.0, -0.08])
        moved = world.physics(state, np.array([[*(middle - 1.5 * way), *middle]]))[1]
        distance = np.linalg.norm(chips_of(moved) - chips_of(state), axis=1)
        assert 0.02 < distance.max() < 0.2


def test_without_a_rim_chips_fall_and_stay_away() -> None:
    world = GranularChipsEnv(chips=2, rim=False, image_size=16)
    state = np.array([0.25, 0.25, 0.45, 0.25, 0.1, 0.1])
    path = world.physics(state, np.array([[0.4, 0.25, 0.5, 0.25], [0.3, 0.1, 0.4, 0.1]]))
    fallen, rest = chips_of(path[1])
    assert (fallen < 0).all()
    np.testing.assert_array_equal(chips_of(path[2])[0], fallen)
    np.testing.assert_array_equal(rest, [0.1, 0.1])
    kept = GranularChipsEnv(chips=2, image_size=16).physics(
        state, np.array([[0.4, 0.25, 0.5, 0.25]])
    )
    assert (chips_of(kept[1]) >= 0).all()
    goals = GranularChipsEnv(rim=False, goal="strokes", image_size=16)
    for seed in range(15):  # one stroke in seventy would lose a chip
        assert (goals.reset(seed=seed)[1]["goal_state"] >= 0).all()


def test_the_chamfer_distance_in_chip_widths() -> None:
    world = GranularChipsEnv(chips=2, image_size=16)
    one = np.array([0.0, 0.0, 0.1, 0.1, 0.3, 0.3])
    other = np.array([0.4, 0.4, 0.3, 0.3 + 2 * CHIP, 0.1, 0.1 + CHIP])
    assert world.chamfer(one, one) == 0.0
    assert world.chamfer(one, other) == pytest.approx(3.0)  # (2 + 1) / 2 there, and back
    assert world.chamfer(other, one) == pytest.approx(3.0)
    _, info = world.reset(seed=0, options={"state": one, "goal_state": other})
    assert info["chamfer"] == pytest.approx(3.0) and not info["is_success"]
    np.testing.assert_array_equal(info["chips"], [[0.1, 0.1], [0.3, 0.3]])


@pytest.mark.parametrize("start", ["scattered", "pile", "piles"])
@pytest.mark.parametrize("goal", ["square", "letter", "strokes"])
def test_starts_and_goals(start: str, goal: str) -> None:
    world = GranularChipsEnv(start=start, goal=goal, image_size=16)
    _, info = world.reset(seed=1)
    first, last = chips_of(info["state"]), chips_of(info["goal_state"])
    assert nearest(first) > 0.9 * CHIP and nearest(last) > 0.6 * CHIP
    spread = {"scattered": 0.11, "pile": 0.0, "piles": 0.0}[start]
    assert first.std(0).min() > spread
    if start == "pile":
        assert first.std(0).max() < 0.06
    if goal == "square":
        assert (np.ptp(last, axis=0) < 9 * CHIP).all()
    if goal == "strokes":  # most chips were not touched by five strokes
        assert (np.linalg.norm(first - last, axis=1) < 1e-6).any() or start != "scattered"


@pytest.mark.parametrize(
    "wrong", [{"chips": 0}, {"start": "heap"}, {"goal": "smile"}], ids=lambda w: next(iter(w))
)
def test_bad_numbers_of_chips_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} is .*choose"):
        GranularChipsEnv(**wrong)


# -------------------------------------------------------------------------------------- policies
def test_exploration_strokes_aim_at_chips_and_wild_ones_go_anywhere(make: Make) -> None:
    env = make("GranularChips", chips=5, image_size=16)
    touched: dict[str, list[bool]] = {"explore": [], "wild": []}
    longest = dict.fromkeys(touched, 0.0)
    for name, seen in touched.items():
        policy = explorer(env, name, np.random.default_rng(0))
        obs, info = env.reset(seed=0)
        for _ in range(30):
            stroke = policy(obs, info)
            longest[name] = max(longest[name], float(np.linalg.norm(stroke[2:] - stroke[:2])))
            obs, _, _, _, info = env.step(stroke)
            seen.append(info["contact"])
    assert np.mean(touched["explore"]) > 0.9 > np.mean(touched["wild"]) > 0.5
    assert longest["explore"] < 0.27 < 0.4 < longest["wild"]


def test_exploration_touches_the_block_most_of_the_time_and_keeps_it_off_the_walls(
    make: Make,
) -> None:
    env = make("PushT", image_size=16)
    world: Any = env.unwrapped
    touched, jammed = [], []
    for seed in range(10):
        infos = [info for _, info in explore(env, seed, 100)[1][1:]]
        for info in infos:
            world.set_state(info["state"])
            pairs = world.data.contact.geom.tolist()
            jammed.append(any(world._block & set(p) and world._tip not in p for p in pairs))
        contacts = [info["contact"] for info in infos]
        touched += contacts[contacts.index(True) :]  # it has to get there first
    assert np.mean(touched) > 0.5
    assert np.mean(jammed) < 0.25


def test_wild_exploration_goes_anywhere_and_still_pushes(make: Make) -> None:
    """Pushes lead to the block; bursts as often away from it."""
    env = make("PushT", image_size=16)
    contact, away = {}, {}
    for name in ("explore", "wild"):
        touched, leaving = [], []
        for seed in range(10):
            policy = explorer(env, name, np.random.default_rng(seed))
            obs, info = env.reset(seed=seed)
            for _ in range(100):
                action = policy(obs, info)
                to_block = info["state"][2:4] - info["state"][:2]
                cosine = action @ to_block / np.linalg.norm(action) / np.linalg.norm(to_block)
                leaving.append(cosine < -0.3)
                obs, _, _, _, info = env.step(action)
                touched.append(info["contact"])
        contact[name], away[name] = np.mean(touched), np.mean(leaving)
    assert away["wild"] > 1.5 * away["explore"]
    assert 0.2 < contact["wild"] < contact["explore"]


@each
def test_policies_stay_within_bounds_and_repeat(
    make: Make, name: str, kwargs: dict[str, Any]
) -> None:
    env = make(name, image_size=16, **kwargs)
    for policy_name in env.unwrapped.policies:
        episodes = []
        for _ in range(2):
            policy = explorer(env, policy_name, np.random.default_rng(0))
            obs, info = env.reset(seed=0)
            episodes.append([])
            for _ in range(15):
                action = policy(obs, info)
                assert env.action_space.contains(action)
                episodes[-1].append(action)
                obs, _, _, _, info = env.step(action)
        np.testing.assert_array_equal(episodes[0], episodes[1])
