"""Push-T: how the block moves when it is pushed, and success."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make import Make

from envs.pusht import MAX_STEP, PUSHER_RADIUS, WORKSPACE, PushTEnv

PUSHT = PushTEnv(image_size=16)


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
