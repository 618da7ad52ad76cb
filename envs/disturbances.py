"""Changes of a MuJoCo model in the middle of an episode, which no world model can predict.

Each takes the model, the geoms of the movable object (MuJoCo's ids) and a random generator.
`restored` undoes them. `envs.task.Task.disturb` applies them by name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import mujoco
import numpy as np

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
