"""Environments of other packages, as environments with a `Task`.

A world is a subclass of `GymnasiumWorld` or `MujocoWorld` of a few lines; ``examples/worlds`` has
some.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import ArrayLike

from envs.camera import free_camera
from envs.mujoco_simulator import MujocoSimulator
from envs.simulator import Array, SimulatorEnv

UNSEEN = mujoco.mjNGROUP - 1  # a group of geoms and sites that a camera leaves out


class GymnasiumWorld(SimulatorEnv):
    """An environment of another package. Its observations, rewards, goals and ends of episodes are
    left out; actions are its own. A subclass adds `get_state`, `set_state`, `render`, and what else
    a `Task` needs. ``proprio`` is what `proprio_names` names of the state, never the whole
    observation.

    Args:
        image_size: height and width of images, pixels.
        render_mode: ``"rgb_array"`` or None.
        kwargs: arguments of the environment.
    """

    world_id: ClassVar[str]
    """Its Gymnasium id; ``package:ID`` imports the package first."""
    repeat: ClassVar[int] = 1
    """Steps of the environment per action."""
    bounds: ClassVar[tuple[ArrayLike, ArrayLike] | None] = None
    """Lowest and highest action, where `advance` takes others than the environment."""

    def __init__(
        self, image_size: int = 112, render_mode: str | None = "rgb_array", **kwargs: Any
    ) -> None:
        made = gym.make(self.world_id, disable_env_checker=True, **kwargs)
        self.world: Any = made.unwrapped
        box: Any = made.action_space
        low, high = self.bounds or (box.low, box.high)
        super().__init__(low, high, image_size, render_mode)

    def begin(self, seed: int | None) -> None:
        self.world.reset(seed=seed)
        self.set_state(self.get_state())  # the same as `reset` from this state

    def advance(self, action: Array) -> None:
        for _ in range(self.repeat):
            self.world.step(action)

    def close(self) -> None:
        """Close the environment."""
        self.world.close()


class MujocoWorld(MujocoSimulator, GymnasiumWorld):
    """An environment with MuJoCo's ``model`` and ``data``. Success: `body` is within `tolerance` of
    where the goal state has it.

    ``state``: position and velocity of every joint, but for those of hidden bodies:
    ``NAME_angle`` (radians) of a hinge, ``NAME`` (metres) of a slide, ``NAME_velocity`` of both.
    The image is rendered by `envs.camera`: without a display, without shadows.

    Raises:
        ValueError: a joint is neither a hinge nor a slide.
    """

    camera: ClassVar[Mapping[str, Any]] = {}
    """Settings of `envs.camera.free_camera`."""
    hidden: ClassVar[tuple[str, ...]] = ()
    """Bodies and sites that no image shows, such as markers of the environment's own goals."""
    body: ClassVar[str]
    """The body that a goal is about."""
    tolerance: ClassVar[float]
    """Metres between the bodies of a state and of a goal."""

    def __init__(
        self, image_size: int = 112, render_mode: str | None = "rgb_array", **kwargs: Any
    ) -> None:
        super().__init__(image_size, render_mode, **kwargs)
        self.model, self.data = self.world.model, self.world.data
        hidden = _hide(self.model, self.hidden)
        joints = [j for j in range(self.model.njnt) if self.model.jnt_bodyid[j] not in hidden]
        self._qpos, self._qvel = self.model.jnt_qposadr[joints], self.model.jnt_dofadr[joints]
        self.state_names = tuple(_names(self.model, joints))
        self._scratch = mujoco.MjData(self.model)

    def get_state(self) -> Array:
        return np.concatenate([self.data.qpos[self._qpos], self.data.qvel[self._qvel]])

    def set_state(self, state: Array) -> None:
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[self._qpos], self.data.qvel[self._qvel] = np.split(state, 2)
        mujoco.mj_forward(self.model, self.data)

    def view(self) -> mujoco.MjvCamera:
        return free_camera(self.model, **self.camera)

    # Goals ---------------------------------------------------------------------------------

    def places(self, states: Array, body: str | None = None) -> Array:
        """Where a body, by default `body`, is in states ``[..., Ds]``: ``[..., 3]``, metres."""
        found = [self.at(state).body(body or self.body).xpos.copy() for state in _rows(states)]
        return np.reshape(found, (*states.shape[:-1], 3))

    def at(self, state: Array) -> Any:
        """MuJoCo's data in a state ``[Ds]``, until the next call; the episode's are another."""
        self._scratch.qpos[self._qpos], self._scratch.qvel[self._qvel] = np.split(state, 2)
        mujoco.mj_kinematics(self.model, self._scratch)
        mujoco.mj_comPos(self.model, self._scratch)
        return self._scratch

    def distance(self, states: Array, goal: Array) -> Array:
        offset = (self.places(states) - self.places(goal)) / self.tolerance
        squared: Array = np.square(offset).sum(-1)
        return squared

    def errors(self, state: Array, goal: Array) -> dict[str, float]:
        return {f"{self.body}, m": self.tolerance * float(self.distance(state, goal)) ** 0.5}


def _rows(states: ArrayLike) -> Array:
    states = np.asarray(states)
    rows: Array = states.reshape(-1, states.shape[-1])
    return rows


def _hide(model: mujoco.MjModel, names: tuple[str, ...]) -> list[int]:
    """Move bodies and sites into a group that no camera shows. Returns the ids of the bodies."""
    bodies = []
    for name in names:
        body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
        if body >= 0:
            bodies.append(body)
            model.geom_group[model.geom_bodyid == body] = UNSEEN
            model.site_group[model.site_bodyid == body] = UNSEEN
        else:
            model.site(name).group[:] = UNSEEN
    return bodies


def _names(model: mujoco.MjModel, joints: list[int]) -> Iterator[str]:
    """Names of a state's numbers: positions, then velocities."""
    kinds = [int(model.jnt_type[joint]) for joint in joints]
    names = [model.joint(joint).name for joint in joints]
    hinge, slide = int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)
    for name, kind in zip(names, kinds, strict=True):
        if kind not in (hinge, slide):
            raise ValueError(f"joint {name!r} is neither a hinge nor a slide")
        yield f"{name}_angle" if kind == hinge else name
    yield from (f"{name}_velocity" for name in names)
