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
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from envs.camera import Camera
from envs.disturbances import DISTURBANCES, restored
from envs.task import Task

Array = NDArray[Any]
Obs = dict[str, Any]
CONTROL_DT = 0.1  # seconds per action: 10 Hz


class TopDownEnv(gym.Env[Obs, Array], Task):
    """A MuJoCo task under an orthographic camera that looks straight down.

    Observation: ``pixels`` uint8 ``[H, W, 3]`` and ``proprio`` float32 ``[Dp]``, SI units.
    ``info`` has the same keys after ``reset`` and ``step``: ``state`` float64 ``[Ds]``,
    ``goal_state`` float64 ``[Ds]``, ``is_success``, ``contact``. The reward is 1 on success and 0
    otherwise; episodes end by truncation only.

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

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    variations: ClassVar[tuple[str, ...]] = ("background", "object", "light", "camera", "friction")
    """``background``: colour of the ground. ``object``: colour of the movable object. ``light``:
    brightness, by a factor of 0.6 to 1.2. ``camera``: its position, by up to 2 % of the image along
    each side. ``friction``: all friction, by a factor of 0.5 to 2."""
    disturbances: ClassVar[tuple[str, ...]] = ("teleport", *DISTURBANCES)
    contact_disturbances: ClassVar[tuple[str, ...]] = ("ghost", "friction")
    action_space: spaces.Box

    def __init__(
        self,
        xml: str,
        low: ArrayLike,
        high: ArrayLike,
        image_size: int = 112,
        render_mode: str | None = "rgb_array",
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is {render_mode!r}; this environment has 'rgb_array'")
        if not 16 <= int(image_size) <= 1024:
            raise ValueError(f"image_size is {image_size}; choose 16 to 1024 pixels")
        self.render_mode = render_mode
        self.image_size = int(image_size)
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        self._usual = copy.copy(self.model)  # the model without variations
        self.substeps = round(CONTROL_DT / self.model.opt.timestep)
        self.action_space = spaces.Box(
            np.asarray(low, np.float32), np.asarray(high, np.float32), dtype=np.float32
        )
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Box(0, 255, (self.image_size, self.image_size, 3), np.uint8),
                # No value comes near these bounds; Gymnasium's checker wants finite ones.
                "proprio": spaces.Box(-100.0, 100.0, (len(self.proprio_names),), np.float32),
            }
        )
        self._camera: Camera | None = None
        self._touched = False
        self._goal: Array = np.zeros(len(self.state_names))

    # What an environment defines -----------------------------------------------------------

    def set_state(self, state: Array) -> None:
        """Put the simulator into `state` ``[Ds]`` and update all derived quantities."""
        raise NotImplementedError

    def sample_state(self, rng: np.random.Generator) -> Array:
        """A random state at rest, ``[Ds]``."""
        raise NotImplementedError

    def apply(self, action: Array) -> None:
        """Send one action ``[A]``, within the bounds, to the actuators."""
        raise NotImplementedError

    def proprio(self) -> Array:
        """What the robot measures of itself, float32 ``[Dp]``."""
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
        super().reset(seed=seed)
        options = options or {}
        unknown = set(options) - {"state", "goal_state", "variation"}
        if unknown:
            raise ValueError(
                f"unknown reset options {sorted(unknown)}; use 'state', 'goal_state', 'variation'"
            )
        variation = options.get("variation") or ()
        names = (variation,) if isinstance(variation, str) else tuple(variation)
        if strange := [name for name in names if name not in self.variations]:
            raise ValueError(
                f"{type(self).__name__} has no variation {strange[0]!r}; "
                f"use {', '.join(self.variations)}"
            )
        self._vary(())  # start and goal are sampled without variations
        # Both are always sampled, so that the goal is the same whether or not a start is given.
        state, goal = self._sample_start_and_goal()
        self._goal = self._checked(options.get("goal_state", goal), "goal_state")
        mujoco.mj_resetData(self.model, self.data)
        self._touched = False
        self._vary(names)
        self.set_state(self._checked(options.get("state", state), "state"))
        return self._observe(), self._info()

    def step(self, action: Array) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Apply one action ``[A]`` for 0.1 s. Actions are clipped to the bounds."""
        self._advance(action)
        info = self._info()
        return self._observe(), float(info["is_success"]), False, False, info

    def render(self) -> Array:
        """The camera image, uint8 ``[H, W, 3]``."""
        if self._camera is None:
            self._camera = Camera(self.model, self.image_size)
        # A simulation step leaves the bodies' poses one substep behind the joints.
        mujoco.mj_kinematics(self.model, self.data)
        return self._camera.render(self.data)

    def close(self) -> None:
        """Free the camera."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    # Task ----------------------------------------------------------------------------------

    def render_state(self, state: ArrayLike) -> Array:
        pixels: Array = self.observe_state(state)["pixels"]
        return pixels

    def observe_state(self, state: ArrayLike) -> Obs:
        with self._preserved():
            self.set_state(self._checked(state, "state"))
            return self._observe()

    def physics(self, state: ArrayLike, actions: Array) -> Array:
        with self._preserved():
            self.set_state(self._checked(state, "state"))
            states = [self.get_state()]
            for action in actions:
                self._advance(action)
                states.append(self.get_state())
        return np.stack(states)

    def hold(self, obs: Any) -> Array:
        box = self.action_space
        zero: Array = np.zeros(box.shape, box.dtype).clip(box.low, box.high)
        return zero

    def disturb(self, name: str, rng: np.random.Generator) -> None:
        """``teleport``: the object moves by at least a tenth of the image. The others are in
        `envs.disturbances`."""
        if name not in self.disturbances:
            super().disturb(name, rng)
        elif name == "teleport":
            self._teleport(rng)
        else:
            DISTURBANCES[name](self.model, self.objects(), rng)

    @contextlib.contextmanager
    def undo_disturbances(self) -> Iterator[None]:
        with restored(self.model):
            yield

    def in_image(self, points: ArrayLike) -> Array:
        view = float(self.model.camera("top").fovy[0])  # metres, for an orthographic camera
        offset = (np.asarray(points, np.float64) - self.model.camera("top").pos[:2]) / view
        place: Array = 0.5 + offset * [1.0, -1.0]
        return place

    def from_image(self, places: ArrayLike) -> Array:
        view = float(self.model.camera("top").fovy[0])
        offset = (np.asarray(places, np.float64) - 0.5) * [1.0, -1.0]
        points: Array = self.model.camera("top").pos[:2] + view * offset
        return points

    # Shared parts --------------------------------------------------------------------------

    def _sample_start_and_goal(self) -> tuple[Array, Array]:
        return self.sample_state(self.np_random), self.sample_state(self.np_random)

    def _vary(self, names: Sequence[str]) -> None:
        """Restore the model, then apply the variations in `names`."""
        model, usual, rng = self.model, self._usual, self.np_random
        model.geom_rgba[:, :3] = usual.geom_rgba[:, :3]
        model.geom_friction[:] = usual.geom_friction
        model.dof_frictionloss[:] = usual.dof_frictionloss
        model.cam_pos[:] = usual.cam_pos
        light, usual_light = model.vis.headlight, usual.vis.headlight
        light.ambient[:], light.diffuse[:] = usual_light.ambient, usual_light.diffuse
        if "background" in names:
            ground = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
            model.geom_rgba[ground, :3] = rng.uniform(0.3, 1.0, 3)
        if "object" in names:
            model.geom_rgba[self.objects(), :3] = rng.uniform(0.1, 0.9, 3)
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

    def _teleport(self, rng: np.random.Generator) -> None:
        """Move the object to a random place, away from where it was and from the robot."""
        state, numbers = self.get_state(), self.object_numbers()
        others = np.setdiff1d(np.arange(len(state)), numbers)
        robot = state[others[:2]] if len(others) else np.full(2, np.inf)
        least = 0.1 * self.model.cam_fovy[0]  # metres
        for _ in range(100):
            new = self.sample_state(rng)
            new[others] = state[others]
            place = new[numbers[:2]]
            moved = np.linalg.norm(place - state[numbers[:2]]) > least
            if moved and np.linalg.norm(place - robot) > least:
                break
        self.set_state(new)

    @contextlib.contextmanager
    def _preserved(self) -> Iterator[None]:
        """Restore the simulator to the bit at the end; ``state`` is only a part of it."""
        state, touched = self.get_state(), self._touched
        everything = mujoco.mjtState.mjSTATE_INTEGRATION
        saved = np.empty(mujoco.mj_stateSize(self.model, everything))
        mujoco.mj_getState(self.model, self.data, saved, everything)
        try:
            yield
        finally:
            self.set_state(state)
            mujoco.mj_setState(self.model, self.data, saved, everything)
            mujoco.mj_forward(self.model, self.data)
            self._touched = touched

    def _advance(self, action: Array) -> None:
        self.apply(self._clipped(action))
        self._touched = False
        for _ in range(5):  # contact is intermittent, so it is checked several times a step
            mujoco.mj_step(self.model, self.data, nstep=self.substeps // 5)
            self._touched |= self.contact()

    def _clipped(self, action: Array) -> Array:
        """`action` clipped to the bounds."""
        action = np.asarray(action, np.float64)
        box = self.action_space
        if action.shape != box.shape or not np.isfinite(action).all():
            raise ValueError(f"action is {action}; expected {box.shape[0]} finite numbers")
        clipped: Array = np.clip(action, box.low, box.high)
        return clipped

    def _observe(self) -> Obs:
        return {"pixels": self.render(), "proprio": self.proprio().astype(np.float32)}

    def _info(self) -> dict[str, Any]:
        state = self.get_state()
        return {
            "state": state,
            "goal_state": self._goal.copy(),
            "is_success": bool(self.success(state, self._goal)),
            "contact": self._touched,
        }

    def _checked(self, state: ArrayLike, name: str) -> Array:
        array = np.asarray(state, np.float64)
        if array.shape != (len(self.state_names),) or not np.isfinite(array).all():
            raise ValueError(
                f"{name} has shape {array.shape}; {type(self).__name__} expects "
                f"{len(self.state_names)} finite numbers: {', '.join(self.state_names)}"
            )
        return array
