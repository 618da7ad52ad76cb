"""Granular chips: strokes, the tray, starts, goals and success."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.chips import CHIP, TRAY, GranularChipsEnv

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
