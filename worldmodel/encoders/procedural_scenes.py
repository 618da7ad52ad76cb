"""Procedural images for pretraining: random things on a random ground, rendered with MuJoCo.

They show what frames of real tasks show and flat drawings do not: solid bodies, seen from above and
obliquely, that are textured, lit and shaded.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.camera import Camera
from worldmodel.cli import progress

Array = NDArray[Any]

VIEWS = 32  # images of one scene: to compile a scene takes longer than to render it
TEXTURES = 5
KINDS = ("box", "box", "box", "sphere", "cylinder", "capsule", "ellipsoid")


def render_scenes(count: int, size: int, seed: int, workers: int | None = None) -> Array:
    """Images of random scenes.

    Args:
        count: number of images.
        size: side, pixels.
        seed: same seed, same images.
        workers: processes; default: one for each core.

    Returns:
        uint8 ``[count, size, size, 3]``.
    """
    seeds = [(seed, index) for index in range(-(-count // VIEWS))]
    if not seeds:
        return np.empty((0, size, size, 3), np.uint8)
    render = partial(_views, size)
    workers = min(workers or os.cpu_count() or 1, len(seeds))
    context = multiprocessing.get_context("spawn")  # OpenGL does not survive a fork
    with ProcessPoolExecutor(workers, context) as pool:
        parts = list(progress(pool.map(render, seeds, chunksize=4), len(seeds), "scenes"))
    return np.concatenate(parts)[:count]


def _views(size: int, seed: tuple[int, int]) -> Array:
    """Images ``[VIEWS, size, size, 3]`` of one scene: its bodies, the light and the camera move."""
    rng = np.random.default_rng(seed)
    model = mujoco.MjModel.from_xml_string(_scene(rng))
    data = mujoco.MjData(model)
    view = mujoco.MjvCamera()
    view.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera = Camera(model, size, view)
    images = np.empty((VIEWS, size, size, 3), np.uint8)
    for image in images:
        _move(model, data, view, rng)
        camera.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = rng.random() < 0.5
        image[:] = camera.render(data)
    camera.close()
    return images


def _move(
    model: mujoco.MjModel, data: mujoco.MjData, view: mujoco.MjvCamera, rng: np.random.Generator
) -> None:
    """Random poses of the bodies, a random light and a random viewpoint."""
    poses = data.qpos.reshape(-1, 7)
    poses[:, :2] = rng.uniform(-1, 1, (len(poses), 2))
    poses[:, 2] = rng.uniform(0.0, 0.15, len(poses))
    yaw = rng.uniform(0, np.pi, len(poses))
    poses[:, 3:] = np.stack([np.cos(yaw), 0 * yaw, 0 * yaw, np.sin(yaw)], -1)
    tumbled = rng.random(len(poses)) < 0.2
    poses[tumbled, 3:] = rng.normal(size=(tumbled.sum(), 4))
    mujoco.mj_normalizeQuat(model, data.qpos)
    model.vis.headlight.ambient[:] = rng.uniform(0.1, 0.5)
    model.vis.headlight.diffuse[:] = rng.uniform(0.1, 0.6)
    model.light_diffuse[:] = rng.uniform(0.1, 0.7)
    model.light_dir[:] = [*rng.uniform(-1, 1, 2), -1]
    mujoco.mj_kinematics(model, data)
    mujoco.mj_camlight(model, data)
    view.lookat[:] = [*rng.uniform(-0.3, 0.3, 2), 0]
    view.azimuth = rng.uniform(0, 360)
    view.elevation = -90 if rng.random() < 0.5 else rng.uniform(-80, -20)
    view.distance = rng.uniform(1.5, 4.0)


def _scene(rng: np.random.Generator) -> str:
    """A random scene, MJCF."""
    textures = "".join(_texture(index, rng) for index in range(TEXTURES))
    bodies = "".join(_body(rng) for _ in range(rng.integers(2, 10)))
    return f"""
    <mujoco>
      <visual>
        <global fovy="{rng.uniform(20, 55):.1f}"/>
        <quality shadowsize="1024"/>
        <map znear="0.05"/>
      </visual>
      <asset>
        <texture type="skybox" builtin="gradient" width="32" height="32"
                 rgb1="{_numbers(rng.random(3))}" rgb2="{_numbers(rng.random(3))}"/>
        {textures}
      </asset>
      <worldbody>
        <light type="directional" pos="0 0 3" dir="0 0 -1"/>
        <geom type="plane" size="4 4 0.1" {_look(rng)}/>
        {bodies}
      </worldbody>
    </mujoco>"""


def _body(rng: np.random.Generator) -> str:
    """One to three connected geoms that move together, with a common look half of the time."""
    look = _look(rng) if rng.random() < 0.5 else None
    geoms = ""
    place, scale = np.zeros(3), 0.05 * 8 ** rng.random()
    for _ in range(rng.integers(1, 4)):
        size = scale * 3 ** rng.uniform(-1, 1, 3)
        geoms += (
            f'<geom type="{rng.choice(KINDS)}" size="{_numbers(size)}" pos="{_numbers(place)}" '
            f"{look or _look(rng)}/>"
        )
        place = place + [*rng.uniform(-1.5, 1.5, 2) * scale, 0]
    return f"<body><freejoint/>{geoms}</body>"


def _texture(index: int, rng: np.random.Generator) -> str:
    builtin = rng.choice(["checker", "gradient", "flat"])
    mark = rng.choice(["none", "edge", "random"])
    return f"""
        <texture name="t{index}" type="2d" builtin="{builtin}" width="64" height="64" mark="{mark}"
                 random="0.2" markrgb="{_numbers(rng.random(3))}"
                 rgb1="{_numbers(rng.random(3))}" rgb2="{_numbers(rng.random(3))}"/>
        <material name="m{index}" texture="t{index}" texuniform="true"
                  texrepeat="{rng.uniform(1, 6):.2f} {rng.uniform(1, 6):.2f}"
                  specular="{rng.random():.2f}" shininess="{rng.random():.2f}"/>"""


def _look(rng: np.random.Generator) -> str:
    """A colour, or a textured material tinted by it."""
    colour = f'rgba="{_numbers(rng.uniform(0.05, 1, 3))} 1"'
    return colour if rng.random() < 0.6 else f'material="m{rng.integers(TEXTURES)}" {colour}'


def _numbers(values: Array) -> str:
    return " ".join(f"{value:.3f}" for value in values)
