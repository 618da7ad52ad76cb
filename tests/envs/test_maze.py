"""The maze: walls, layouts and success."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make import Make

from envs.maze import CELL, LAYOUTS, MAX_SPEED, RADIUS, MazeEnv, _random_layout

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
