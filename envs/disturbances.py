"""Changes of a MuJoCo model in the middle of an episode, which no world model can predict.

Each takes the model, the geoms of the movable object (MuJoCo's ids) and a random generator.
`restored` undoes them. `envs.task.Task.disturb` applies them by name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Disturbance = Callable[[mujoco.MjModel, Sequence[int], np.random.Generator], None]


def vanish(model: mujoco.MjModel, geoms: Sequence[int], rng: np.random.Generator) -> None:
    """The object becomes invisible and collides with nothing."""
    model.geom_rgba[geoms, 3] = 0.0
    ghost(model, geoms, rng)


def ghost(model: mujoco.MjModel, geoms: Sequence[int], rng: np.random.Generator) -> None:
    """The object collides with nothing."""
    model.geom_contype[geoms] = 0
    model.geom_conaffinity[geoms] = 0


def colour(model: mujoco.MjModel, geoms: Sequence[int], rng: np.random.Generator) -> None:
    """The object changes its colour."""
    model.geom_rgba[geoms, :3] = rng.uniform(0.1, 0.9, 3)


def shape(model: mujoco.MjModel, geoms: Sequence[int], rng: np.random.Generator) -> None:
    """The first geom of the object becomes half or twice as wide."""
    model.geom_size[geoms[0], 0] *= rng.choice([0.5, 2.0])


def friction(model: mujoco.MjModel, geoms: Sequence[int], rng: np.random.Generator) -> None:
    """All friction becomes four times as large, or a quarter."""
    factor = rng.choice([0.25, 4.0])
    model.geom_friction[:, 0] *= factor
    model.dof_frictionloss[:] *= factor


def camera(model: mujoco.MjModel, geoms: Sequence[int], rng: np.random.Generator) -> None:
    """The camera shifts sideways by 3 to 6 % of the image."""
    angle = rng.uniform(0, 2 * np.pi)
    distance = rng.uniform(0.03, 0.06) * model.cam_fovy[0]
    model.cam_pos[:, :2] += distance * np.array([np.cos(angle), np.sin(angle)])


DISTURBANCES: dict[str, Disturbance] = {
    function.__name__: function for function in (vanish, ghost, colour, shape, friction, camera)
}
_CHANGED = (
    *("geom_rgba", "geom_contype", "geom_conaffinity", "geom_size", "geom_friction"),
    *("dof_frictionloss", "cam_pos"),
)


@contextlib.contextmanager
def restored(model: mujoco.MjModel) -> Iterator[None]:
    """Restore what disturbances changed in `model` at the end of the ``with`` block."""
    saved = {name: getattr(model, name).copy() for name in _CHANGED}
    try:
        yield
    finally:
        for name, values in saved.items():
            getattr(model, name)[:] = values


def teleported(
    state: Array,
    object_numbers: Sequence[int],
    sample_state: Callable[[np.random.Generator], Array],
    least: float,
    rng: np.random.Generator,
) -> Array:
    """The state with the object at a random place, away from where it was and from the robot.

    Args:
        state: ``[Ds]``.
        object_numbers: indices of the state's numbers that describe the object; its x and y come
            first. The first two of the others are the robot's x and y.
        sample_state: returns random states at rest.
        least: smallest distance from the old place and from the robot, metres.
        rng: source of the randomness.
    """
    at = list(object_numbers)
    others = np.setdiff1d(np.arange(len(state)), at)
    robot = state[others[:2]] if len(others) else np.full(2, np.inf)
    for _ in range(100):
        new = sample_state(rng)
        new[others] = state[others]
        place = new[at[:2]]
        moved = np.linalg.norm(place - state[at[:2]]) > least
        if moved and np.linalg.norm(place - robot) > least:
            break
    return new
