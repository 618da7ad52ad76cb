"""A MuJoCo model under a top-down camera: what the bundled environments share.

An environment supplies its MJCF and maps its ``state`` onto the simulator. This module does the
rest: rendering, observations, info, seeding, exact resets, variations and disturbances.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import ArrayLike

from envs.camera import from_image, in_image
from envs.disturbances import DISTURBANCES, restored, teleported
from envs.mujoco_simulator import MujocoSimulator
from envs.simulator import Array, Obs
from envs.variations import VARIATIONS, variation_names, vary

CONTROL_DT = 0.1  # seconds per action: 10 Hz


class TopDownEnv(MujocoSimulator):
    """A MuJoCo task under an orthographic camera that looks straight down.

    Observation: ``pixels`` uint8 ``[H, W, 3]`` and ``proprio`` float32 ``[Dp]``, SI units.
    ``info`` has the same keys after ``reset`` and ``step``: ``state`` float64 ``[Ds]``,
    ``goal_state`` float64 ``[Ds]``, ``is_success``, ``contact``. The reward is 1 on success and 0
    otherwise; episodes end by truncation only. An action lasts 0.1 s.

    ``reset(options={"state": ..., "goal_state": ...})`` restores either exactly.
    ``reset(options={"variation": ["background", "light"]})`` changes the look of the world or its
    friction until the next reset (see `variations`), by amounts that depend on the seed.
    `render_state` shows the changed world as well.

    Args:
        xml: the model as MJCF, with a camera named ``top``.
        low, high: bounds of actions ``[A]``.
        image_size: height and width of images, pixels.
        render_mode: ``"rgb_array"`` or None.
    """

    variations: ClassVar[tuple[str, ...]] = VARIATIONS
    disturbances: ClassVar[tuple[str, ...]] = ("teleport", *DISTURBANCES)
    contact_disturbances: ClassVar[tuple[str, ...]] = ("ghost", "friction")
    proprio_bound = 100.0
    _goal: Array

    def __init__(
        self,
        xml: str,
        low: ArrayLike,
        high: ArrayLike,
        image_size: int = 112,
        render_mode: str | None = "rgb_array",
    ) -> None:
        super().__init__(low, high, image_size, render_mode)
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        self._original = copy.copy(self.model)  # without variations
        self.substeps = round(CONTROL_DT / self.model.opt.timestep)
        self._touched = False
        self._goal = np.zeros(len(self.state_names))

    # What an environment defines -----------------------------------------------------------

    def sample_state(self, rng: np.random.Generator) -> Array:
        """A random state at rest, ``[Ds]``."""
        raise NotImplementedError

    def apply(self, action: Array) -> None:
        """Send one action ``[A]``, within the bounds, to the actuators."""
        raise NotImplementedError

    def contact(self) -> bool:
        """Whether the robot touches an object or a wall."""
        raise NotImplementedError

    def objects(self) -> list[int]:
        """MuJoCo's ids of the geoms of the movable object."""
        raise NotImplementedError

    def object_numbers(self) -> list[int]:
        """Indices of the state's numbers that describe the movable object; its x and y come
        first."""
        return list(range(len(self.state_names)))

    # Gymnasium -----------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: of everything random, as in Gymnasium.
            options: ``state`` to start from and ``goal_state``, both random by default;
                ``variation``: one or several names out of `variations`.
        """
        gym.Env.reset(self, seed=seed)
        options = options or {}
        names = variation_names(options, self.variations, type(self).__name__)
        self._vary(())  # start and goal are sampled without variations
        # Both are always sampled, so that the goal is the same whether or not a start is given.
        state, goal = self._sample_start_and_goal()
        self._goal = self._checked(options.get("goal_state", goal), "goal_state")
        mujoco.mj_resetData(self.model, self.data)
        self._touched = False
        self._vary(names)
        self.set_state(self._checked(options.get("state", state), "state"))
        return self._observe(), self._info()

    # Task ----------------------------------------------------------------------------------

    def disturb(self, name: str, rng: np.random.Generator) -> None:
        """``teleport``: the object moves by at least a tenth of the image. The others are in
        `envs.disturbances`."""
        if name not in self.disturbances:
            super().disturb(name, rng)
        elif name == "teleport":
            least = 0.1 * self.model.cam_fovy[0]  # metres
            state, numbers = self.get_state(), self.object_numbers()
            self.set_state(teleported(state, numbers, self.sample_state, least, rng))
        else:
            DISTURBANCES[name](self.model, self.objects(), rng)

    @contextlib.contextmanager
    def undo_disturbances(self) -> Iterator[None]:
        with restored(self.model):
            yield

    def in_image(self, points: ArrayLike) -> Array:
        return in_image(self.model, points)

    def from_image(self, places: ArrayLike) -> Array:
        return from_image(self.model, places)

    # Shared parts --------------------------------------------------------------------------

    def _vary(self, names: Sequence[str]) -> None:
        vary(self.model, self._original, self.objects(), names, self.np_random)

    def _sample_start_and_goal(self) -> tuple[Array, Array]:
        return self.sample_state(self.np_random), self.sample_state(self.np_random)

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Restore the simulator to the bit at the end, and what `set_state` sets beside it."""
        state, touched = self.get_state(), self._touched
        with super().preserved():
            try:
                yield
            finally:
                self.set_state(state)
                self._touched = touched

    def advance(self, action: Array) -> None:
        self.apply(action)
        self._touched = False
        for _ in range(5):  # contact is intermittent, so it is checked several times a step
            mujoco.mj_step(self.model, self.data, nstep=self.substeps // 5)
            self._touched |= self.contact()

    def _info(self) -> dict[str, Any]:
        return {**super()._info(), "contact": self._touched}
