"""Disturbances change the world in the middle of an episode, until they are undone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from make import Make

from envs.task import task_of

WORLDS = ("PushT", "Maze", "GranularChips")
CASES = [(name, event) for name in WORLDS for event in ("teleport", "vanish", "ghost", "camera")]
MODEL = ("geom_rgba", "geom_contype", "geom_conaffinity", "geom_size", "geom_friction", "cam_pos")


@pytest.mark.parametrize(
    ("name", "event"), [*CASES, ("PushT", "colour"), ("PushT", "shape"), ("PushT", "friction")]
)
def test_a_disturbance_changes_the_world_until_it_is_undone(
    make: Make, name: str, event: str
) -> None:
    env = make(name, image_size=64)
    task: Any = task_of(env)
    env.reset(seed=3)
    state = task.get_state()
    image = task.render_state(state)
    saved = {name: getattr(task.model, name).copy() for name in MODEL}
    with task.undo_disturbances():
        task.disturb(event, np.random.default_rng(0))
        changed = any((getattr(task.model, name) != saved[name]).any() for name in saved)
        moved = (task.get_state() != state).any()
        assert moved == (event == "teleport") and changed != moved
        visible = (task.render_state(task.get_state()) != image).any()
        assert visible == (event not in task.contact_disturbances)
    for key, values in saved.items():
        np.testing.assert_array_equal(getattr(task.model, key), values)


def test_teleport_moves_the_block_far_and_the_pusher_not_at_all(make: Make) -> None:
    env = make("PushT", image_size=32)
    task: Any = task_of(env)
    _, info = env.reset(seed=3)
    task.disturb("teleport", np.random.default_rng(0))
    after = task.get_state()
    assert np.linalg.norm(after[2:4] - info["state"][2:4]) > 0.05
    np.testing.assert_array_equal(after[:2], info["state"][:2])


def test_an_unknown_disturbance_is_an_error(make: Make) -> None:
    env = make("Maze", image_size=32)
    with pytest.raises(ValueError, match="MazeEnv has no disturbance 'friction'"):
        env.unwrapped.disturb("friction", np.random.default_rng(0))  # type: ignore[attr-defined]
