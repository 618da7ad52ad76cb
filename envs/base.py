"""What every task shares: a MuJoCo model under a top-down camera, exact resets, goal images.

A task supplies its MJCF, how its ``state`` maps onto the simulator, and when a state counts as a
success. Everything else (rendering, observations, info, seeding) is here, once.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import ctypes
import ctypes.util
import importlib
import importlib.util
import os
import sys
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Obs = dict[str, Any]
CONTROL_DT = 0.1  # seconds per action: 10 Hz


class TopDownEnv(gym.Env[Obs, Array]):
    """A MuJoCo task seen by an orthographic camera from above.

    Observation: ``pixels`` uint8 ``[H, W, 3]`` and ``proprio`` float32 ``[Dp]``, SI units.
    ``info`` has the same keys after ``reset`` and ``step``: ``state`` float64 ``[Ds]``,
    ``goal_state`` float64 ``[Ds]``, ``is_success``, ``contact``. The state is the simulator's
    truth: for evaluation and probes, never for planning.

    ``reset(options={"state": ..., "goal_state": ...})`` restores either exactly. The reward is
    1 on success and 0 otherwise; episodes end by truncation only.

    ``reset(options={"variation": ["background", "light"]})`` changes the look of the world or its
    friction until the next reset, by amounts that the seed decides: how ``variations`` says. Goal
    images of `render_state` show the changed world, too.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    task: ClassVar[str]
    variations: ClassVar[tuple[str, ...]] = ("background", "object", "light", "camera", "friction")
    """What ``reset`` can change: the colour of the ground; the colour of what is to be moved; the
    brightness, by a factor of 0.6 to 1.2; the place of the camera, by up to 2 % of the image along
    each side; all friction, by a factor of 0.5 to 2."""
    action_space: spaces.Box
    state_names: ClassVar[tuple[str, ...]]
    proprio_names: ClassVar[tuple[str, ...]]

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
        self._usual = copy.copy(self.model)  # what variations start from
        self.substeps = round(CONTROL_DT / self.model.opt.timestep)
        self.action_space = spaces.Box(
            np.asarray(low, np.float32), np.asarray(high, np.float32), dtype=np.float32
        )
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Box(0, 255, (self.image_size, self.image_size, 3), np.uint8),
                # Far beyond anything that happens; finite, because Gymnasium's checker asks for it.
                "proprio": spaces.Box(-100.0, 100.0, (len(self.proprio_names),), np.float32),
            }
        )
        self._camera: _Camera | None = None
        self._touched = False
        self._goal: Array = np.zeros(len(self.state_names))

    # What a task defines -------------------------------------------------------------------

    def get_state(self) -> Array:
        """The simulator's state, float64 ``[Ds]``, named by ``state_names``."""
        raise NotImplementedError

    def set_state(self, state: Array) -> None:
        """Put the simulator into ``state`` ``[Ds]`` and refresh everything derived from it."""
        raise NotImplementedError

    def sample_state(self, rng: np.random.Generator) -> Array:
        """A random state at rest, ``[Ds]``."""
        raise NotImplementedError

    def success(self, state: Array, goal: Array) -> bool:
        """Whether ``state`` is at ``goal``, by the published criterion of the task."""
        raise NotImplementedError

    def apply(self, action: Array) -> None:
        """Hand one action ``[A]``, already inside the bounds, to the actuators."""
        raise NotImplementedError

    def proprio(self) -> Array:
        """What the robot measures of itself, float32 ``[Dp]``."""
        raise NotImplementedError

    def contact(self) -> bool:
        """Whether the robot touches what it can move or bump into."""
        raise NotImplementedError

    def objects(self) -> list[int]:
        """The geoms of what is to be moved, by MuJoCo's ids."""
        raise NotImplementedError

    # Gymnasium -----------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start an episode from a random state, or from ``options["state"]``, towards a random
        goal, or ``options["goal_state"]``, in a world changed by ``options["variation"]``: one or
        several of ``variations``."""
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
                f"{self.task} has no variation {strange[0]!r}; use {', '.join(self.variations)}"
            )
        self._vary(())  # the task is drawn in the usual world
        # Both are always drawn, so that giving one does not change the other.
        state, goal = self._sample_task()
        self._goal = self._checked(options.get("goal_state", goal), "goal_state")
        mujoco.mj_resetData(self.model, self.data)
        self._touched = False
        self._vary(names)
        self.set_state(self._checked(options.get("state", state), "state"))
        return self._observe(), self._info()

    def step(self, action: Array) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Apply one action ``[A]`` for 0.1 s. Actions outside the bounds are clipped to them."""
        self._advance(action)
        info = self._info()
        return self._observe(), float(info["is_success"]), False, False, info

    def render(self) -> Array:
        """The camera image, uint8 ``[H, W, 3]``."""
        if self._camera is None:
            self._camera = _Camera(self.model, self.image_size)
        # After a simulation step the joints have moved, but the bodies are drawn where they were.
        mujoco.mj_kinematics(self.model, self.data)
        return self._camera.shoot(self.data)

    def in_image(self, points: ArrayLike) -> Array:
        """Where points of the table ``[..., 2]``, metres, are in the image, ``[..., 2]``: from the
        left and from the top, as shares of its side."""
        view = float(self.model.camera("top").fovy[0])  # metres, for an orthographic camera
        apart = (np.asarray(points, np.float64) - self.model.camera("top").pos[:2]) / view
        place: Array = 0.5 + apart * [1.0, -1.0]
        return place

    def from_image(self, places: ArrayLike) -> Array:
        """The points of the table ``[..., 2]``, metres, that are seen at `places`: `in_image` the
        other way round."""
        view = float(self.model.camera("top").fovy[0])
        apart = (np.asarray(places, np.float64) - 0.5) * [1.0, -1.0]
        points: Array = self.model.camera("top").pos[:2] + view * apart
        return points

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    # For evaluation ------------------------------------------------------------------------

    def render_state(self, state: ArrayLike) -> Array:
        """The image of any state ``[Ds]``, as goal images need it; the episode is not disturbed."""
        pixels: Array = self.observe_state(state)["pixels"]
        return pixels

    def observe_state(self, state: ArrayLike) -> Obs:
        """What would be observed in any state ``[Ds]``; the episode is not disturbed."""
        with self._undisturbed():
            self.set_state(self._checked(state, "state"))
            return self._observe()

    def physics(self, state: ArrayLike, actions: Array) -> Array:
        """Simulate ``actions`` ``[n, A]`` from ``state`` without rendering: states ``[n+1, Ds]``.

        The episode is not disturbed, and the states are those that ``reset`` to ``state`` and
        ``step`` would go through.
        """
        with self._undisturbed():
            self.set_state(self._checked(state, "state"))
            states = [self.get_state()]
            for action in actions:
                self._advance(action)
                states.append(self.get_state())
        return np.stack(states)

    # Shared parts --------------------------------------------------------------------------

    def _sample_task(self) -> tuple[Array, Array]:
        return self.sample_state(self.np_random), self.sample_state(self.np_random)

    def _vary(self, names: Sequence[str]) -> None:
        """Make the world as usual, but for what `names` says."""
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

    @contextlib.contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Put the simulator back afterwards, bit by bit (``state`` is not all it remembers)."""
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
        for _ in range(5):  # a push is a series of taps: look for contact within the step as well
            mujoco.mj_step(self.model, self.data, nstep=self.substeps // 5)
            self._touched |= self.contact()

    def _clipped(self, action: Array) -> Array:
        """`action` within the bounds."""
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

    def _checked(self, state: ArrayLike, what: str) -> Array:
        array = np.asarray(state, np.float64)
        if array.shape != (len(self.state_names),) or not np.isfinite(array).all():
            raise ValueError(
                f"{what} has shape {array.shape}; {self.task} expects {len(self.state_names)} "
                f"finite numbers: {', '.join(self.state_names)}"
            )
        return array


class _Camera:
    """Draws a model off screen through its camera ``top``.

    ``mujoco.Renderer`` does the same, but with the OpenGL library that was chosen when anybody
    (Gymnasium's checker, say) first imported mujoco. We want one that needs no display.
    """

    def __init__(self, model: mujoco.MjModel, size: int) -> None:
        # Mesa draws on the CPU in threads of its own. They do not survive a fork, which would hang
        # Gymnasium's asynchronous vector environments, and images this small gain nothing by them.
        os.environ.setdefault("LP_NUM_THREADS", "0")
        _load_triton_first()
        library = os.environ.get("MUJOCO_GL", "").lower() or _headless_library()
        try:
            source = f"mujoco.{library}" if library in ("egl", "osmesa") else "mujoco"
            self.context = importlib.import_module(source).GLContext(size, size)
            self.context.make_current()
            self.opengl = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        except Exception as error:  # MuJoCo raises whatever its OpenGL loader raised
            raise RuntimeError(
                f"cannot render with MUJOCO_GL={library}: {error}. Install the system packages "
                "libegl1 and libgl1 (Debian, Ubuntu), or libosmesa6 and set MUJOCO_GL=osmesa"
            ) from error
        # An environment that nobody closes must let go of OpenGL before Python lets go of MuJoCo.
        atexit.register(_close, weakref.ref(self))
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.opengl)
        self.model = model
        self.scene = mujoco.MjvScene(model, maxgeom=1000)
        # Shadows and reflections cost more than all else together and tell the camera nothing.
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self.scene.flags[flag] = 0
        self.option = mujoco.MjvOption()
        self.view = mujoco.MjvCamera()
        self.view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self.view.fixedcamid = model.camera("top").id
        self.frame = mujoco.MjrRect(0, 0, size, size)
        self.pixels = np.empty((size, size, 3), np.uint8)

    def shoot(self, data: mujoco.MjData) -> Array:
        """The image of ``data``, uint8 ``[H, W, 3]``."""
        self.context.make_current()  # other environments may have drawn since
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            self.model, data, self.option, None, self.view, everything, self.scene
        )
        mujoco.mjr_render(self.frame, self.scene, self.opengl)
        mujoco.mjr_readPixels(self.pixels, None, self.frame, self.opengl)
        return self.pixels[::-1].copy()  # OpenGL counts rows from below

    def close(self) -> None:
        self.context.make_current()
        self.opengl.free()
        self.context.free()


def _close(camera: weakref.ref[_Camera]) -> None:
    alive = camera()
    if alive is not None:
        alive.close()


def _headless_library() -> str:
    """EGL if it works here, else OSMesa if that is installed; off Linux, MuJoCo knows best."""
    if sys.platform != "linux":
        return "the system's default"
    if not _egl_has_a_device() and ctypes.util.find_library("OSMesa"):
        return "osmesa"
    return "egl"


def _egl_has_a_device() -> bool:
    """Whether EGL can render without a display: the library is there, and a driver behind it."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
        egl.eglGetProcAddress.restype = ctypes.c_void_p
        address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    except (OSError, AttributeError):
        return False
    if not address:
        return False
    count = ctypes.c_int(0)
    int_pointer = ctypes.POINTER(ctypes.c_int)
    query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, int_pointer)(address)
    return bool(query(0, None, ctypes.byref(count))) and count.value > 0


def _load_triton_first() -> None:
    """Map triton's library, where PyTorch brought one, before Mesa's software renderer.

    Both contain LLVM. If Mesa's comes first, importing triton later, as ``torch.optim`` does, ends
    in a segmentation fault; the other way round both work.
    """
    triton = importlib.util.find_spec("triton")
    for folder in (triton and triton.submodule_search_locations) or ():
        with contextlib.suppress(OSError):
            ctypes.CDLL(os.path.join(folder, "_C", "libtriton.so"))
