"""What all MuJoCo simulators share: a camera, and exact restoring."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import mujoco
import numpy as np

from envs.camera import Camera
from envs.simulator import Array, SimulatorEnv


class MujocoSimulator(SimulatorEnv):
    """A `SimulatorEnv` on MuJoCo's ``model`` and ``data``, which a subclass sets."""

    model: mujoco.MjModel
    data: mujoco.MjData
    _camera: Camera | None = None

    def view(self) -> mujoco.MjvCamera | None:
        """Where images are rendered from; None: the model's fixed camera ``top``."""
        return None

    def render(self) -> Array:
        """The camera image, uint8 ``[S, S, 3]``."""
        if self._camera is None:
            self._camera = Camera(self.model, self.image_size, self.view())
        # A simulation step leaves the bodies' poses one substep behind the joints.
        mujoco.mj_kinematics(self.model, self.data)
        return self._camera.render(self.data)

    def close(self) -> None:
        """Free the camera."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None
        super().close()

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Restore the simulator to the bit at the end; ``state`` is only a part of it."""
        everything = mujoco.mjtState.mjSTATE_INTEGRATION
        saved = np.empty(mujoco.mj_stateSize(self.model, everything))
        mujoco.mj_getState(self.model, self.data, saved, everything)
        try:
            yield
        finally:
            mujoco.mj_setState(self.model, self.data, saved, everything)
            mujoco.mj_forward(self.model, self.data)
