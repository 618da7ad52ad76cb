"""The off-screen camera: renders a MuJoCo model from above, without a display."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import ctypes.util
import importlib
import importlib.util
import os
import sys
import weakref
from typing import Any

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


class Camera:
    """Renders a model off screen.

    `mujoco.Renderer` uses the OpenGL library that was chosen when mujoco was first imported, which
    may need a display. This class chooses a library that needs none.

    Args:
        model: a MuJoCo model.
        size: height and width of the image, pixels.
        view: where it is rendered from; default: the model's fixed camera ``top``.

    Raises:
        RuntimeError: OpenGL cannot render here; names the packages to install.
    """

    def __init__(
        self, model: mujoco.MjModel, size: int, view: mujoco.MjvCamera | None = None
    ) -> None:
        # Mesa renders on the CPU with its own threads. Threads do not survive a fork, which hangs
        # Gymnasium's asynchronous vector environments; small images gain nothing from them.
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
        # At exit, OpenGL must be freed before Python unloads MuJoCo, also if nobody closed the env.
        atexit.register(_close, weakref.ref(self))
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.opengl)
        self.model = model
        self.scene = mujoco.MjvScene(model, maxgeom=1000)
        # Shadows and reflections would take most of the rendering time.
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self.scene.flags[flag] = 0
        self.option = mujoco.MjvOption()
        self.view = _fixed_camera(model, "top") if view is None else view
        self.frame = mujoco.MjrRect(0, 0, size, size)
        self.pixels = np.empty((size, size, 3), np.uint8)

    def render(self, data: mujoco.MjData) -> Array:
        """The image of `data`, uint8 ``[H, W, 3]``."""
        try:
            self.context.make_current()  # another environment may have rendered in between
        except ctypes.ArgumentError as error:
            if "KeyboardInterrupt" in str(error):  # ctypes hides a Ctrl-C during the call
                raise KeyboardInterrupt from None
            raise
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            self.model, data, self.option, None, self.view, everything, self.scene
        )
        mujoco.mjr_render(self.frame, self.scene, self.opengl)
        mujoco.mjr_readPixels(self.pixels, None, self.frame, self.opengl)
        return self.pixels[::-1].copy()  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Free the OpenGL context."""
        self.context.make_current()
        self.opengl.free()
        self.context.free()


def free_camera(
    model: mujoco.MjModel,
    lookat: ArrayLike | None = None,
    distance: float | None = None,
    azimuth: float = 90.0,
    elevation: float = -45.0,
) -> mujoco.MjvCamera:
    """A camera that looks at a point. The defaults are those of Gymnasium's MuJoCo environments.

    Args:
        model: what it looks at.
        lookat: the point ``[3]``, metres; default: the median of all geoms at rest.
        distance: from the point, metres; default: the extent of the model.
        azimuth, elevation: its direction, degrees. Elevation -90 looks straight down.
    """
    rest = mujoco.MjData(model)
    mujoco.mj_kinematics(model, rest)
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.lookat[:] = np.median(rest.geom_xpos, 0) if lookat is None else lookat
    camera.distance = model.stat.extent if distance is None else distance
    camera.azimuth, camera.elevation = azimuth, elevation
    return camera


def _fixed_camera(model: mujoco.MjModel, name: str) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
    camera.fixedcamid = model.camera(name).id
    return camera


def in_image(model: mujoco.MjModel, points: ArrayLike) -> Array:
    """Where points of the workspace ``[..., 2]``, metres, are in the image, ``[..., 2]``: from the
    left and from the top, as fractions of its side."""
    camera = model.camera("top")
    offset = (np.asarray(points, np.float64) - camera.pos[:2]) / float(camera.fovy[0])
    place: Array = 0.5 + offset * [1.0, -1.0]
    return place


def from_image(model: mujoco.MjModel, places: ArrayLike) -> Array:
    """The inverse of `in_image`."""
    camera = model.camera("top")
    offset = (np.asarray(places, np.float64) - 0.5) * [1.0, -1.0]
    points: Array = camera.pos[:2] + float(camera.fovy[0]) * offset
    return points


def _close(camera: weakref.ref[Camera]) -> None:
    alive = camera()
    if alive is not None:
        alive.close()


def _headless_library() -> str:
    """EGL if it works, else OSMesa if it is installed; outside Linux, MuJoCo's default."""
    if sys.platform != "linux":
        return "the system's default"
    if not _egl_has_a_device() and ctypes.util.find_library("OSMesa"):
        return "osmesa"
    return "egl"


def _egl_has_a_device() -> bool:
    """Whether EGL has a library and a driver, so that it can render without a display."""
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
    """Load triton's library, which comes with PyTorch, before Mesa's software renderer.

    Both contain LLVM. If Mesa's copy loads first, a later import of triton, as by ``torch.optim``,
    ends in a segmentation fault.
    """
    triton = importlib.util.find_spec("triton")
    for folder in (triton and triton.submodule_search_locations) or ():
        with contextlib.suppress(OSError):
            ctypes.CDLL(os.path.join(folder, "_C", "libtriton.so"))
