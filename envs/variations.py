"""Changes of a MuJoCo model for a whole episode: its look or its friction, by random amounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np

VARIATIONS = ("background", "object", "light", "camera", "friction")
"""``background``: colour of the ground. ``object``: colour of the movable object. ``light``:
brightness, by a factor of 0.6 to 1.2. ``camera``: its position, by up to 2 % of the image along
each side. ``friction``: all friction, by a factor of 0.5 to 2."""


def vary(
    model: mujoco.MjModel,
    original: mujoco.MjModel,
    geoms: Sequence[int],
    names: Sequence[str],
    rng: np.random.Generator,
) -> None:
    """Restore a model, then apply variations.

    Args:
        model: what is changed.
        original: the model without variations.
        geoms: MuJoCo's ids of the geoms of the movable object.
        names: out of `VARIATIONS`.
        rng: source of the amounts.
    """
    model.geom_rgba[:, :3] = original.geom_rgba[:, :3]
    model.geom_friction[:] = original.geom_friction
    model.dof_frictionloss[:] = original.dof_frictionloss
    model.cam_pos[:] = original.cam_pos
    light, original_light = model.vis.headlight, original.vis.headlight
    light.ambient[:], light.diffuse[:] = original_light.ambient, original_light.diffuse
    if "background" in names:
        ground = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
        model.geom_rgba[ground, :3] = rng.uniform(0.3, 1.0, 3)
    if "object" in names:
        model.geom_rgba[geoms, :3] = rng.uniform(0.1, 0.9, 3)
    if "light" in names:
        brightness = rng.uniform(0.6, 1.2)
        light.ambient[:] *= brightness
        light.diffuse[:] *= brightness
    if "camera" in names:
        view = model.cam_fovy[0]  # metres, for an orthographic camera
        model.cam_pos[:, :2] += rng.uniform(-0.02, 0.02, 2) * view
    if "friction" in names:
        factor = 2.0 ** rng.uniform(-1.0, 1.0)
        model.geom_friction[:, 0] *= factor
        model.dof_frictionloss[:] *= factor


def variation_names(options: Mapping[str, Any], known: Sequence[str], env: str) -> tuple[str, ...]:
    """The variations that reset's options ask for.

    Args:
        options: of ``reset``; their ``variation`` is one name, or several.
        known: names of variations that the environment has.
        env: its name, for error messages.

    Raises:
        ValueError: an unknown option or variation.
    """
    if unknown := set(options) - {"state", "goal_state", "variation"}:
        raise ValueError(
            f"unknown reset options {sorted(unknown)}; use 'state', 'goal_state', 'variation'"
        )
    variation = options.get("variation") or ()
    names = (variation,) if isinstance(variation, str) else tuple(variation)
    if strange := [name for name in names if name not in known]:
        raise ValueError(f"{env} has no variation {strange[0]!r}; use {', '.join(known)}")
    return names
