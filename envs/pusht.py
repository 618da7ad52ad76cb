"""Push-T: a round pusher moves a T-shaped block on a table, seen from above."""

from __future__ import annotations

from typing import ClassVar

import mujoco
import numpy as np

from envs.base import Array, TopDownEnv

WORKSPACE = 0.512  # metres: one millimetre per pixel of the 512-pixel original
PUSHER_RADIUS = 0.015
MAX_STEP = 0.02  # metres the pusher's target may move per action, along each axis
POSITION_TOLERANCE = WORKSPACE * 20 / 512
ANGLE_TOLERANCE = np.deg2rad(20)

# The T is a 120 x 30 mm bar on a 30 x 90 mm stem; its frame sits at its centre of mass. It rests
# on three feet, whose friction with the table makes it slide and rotate as a pushed block does.
XML = f"""
<mujoco model="pusht">
  <option timestep="0.01" integrator="implicitfast" cone="elliptic" iterations="20"/>
  <visual>
    <quality shadowsize="0" offsamples="4"/>
    <headlight ambient=".55 .55 .55" diffuse=".45 .45 .45" specular="0 0 0"/>
    <global offwidth="1024" offheight="1024"/>
  </visual>
  <default>
    <geom contype="0" conaffinity="0" condim="3"/>
    <default class="wall"><geom type="box" contype="4" conaffinity="3" rgba=".3 .3 .3 1"/></default>
    <default class="tee"><geom type="box" contype="2" conaffinity="5" friction=".4"
      rgba=".42 .5 .66 1"/></default>
    <default class="foot"><geom type="sphere" size=".004" contype="8" conaffinity="8"
      friction=".5" group="3"/></default>
  </default>
  <worldbody>
    <camera name="top" mode="fixed" pos=".256 .256 1" projection="orthographic" fovy="{WORKSPACE}"/>
    <geom name="table" type="plane" pos=".256 .256 0" size=".4 .4 .1" contype="8" conaffinity="8"
      friction=".5" rgba=".93 .93 .91 1"/>
    <geom class="wall" pos="-.01 .256 .03" size=".01 .3 .03"/>
    <geom class="wall" pos=".522 .256 .03" size=".01 .3 .03"/>
    <geom class="wall" pos=".256 -.01 .03" size=".3 .01 .03"/>
    <geom class="wall" pos=".256 .522 .03" size=".3 .01 .03"/>
    <body name="block">
      <joint name="bx" type="slide" axis="1 0 0"/>
      <joint name="by" type="slide" axis="0 1 0"/>
      <joint name="bz" type="slide" axis="0 0 1" damping="5"/>
      <joint name="bt" type="hinge" axis="0 0 1"/>
      <geom name="bar" class="tee" pos="0 .0257 .02" size=".06 .015 .015" mass=".17"/>
      <geom name="stem" class="tee" pos="0 -.0343 .02" size=".015 .045 .015" mass=".13"/>
      <geom class="foot" pos="-.048 .0257 .004"/>
      <geom class="foot" pos=".048 .0257 .004"/>
      <geom class="foot" pos="0 -.06 .004"/>
    </body>
    <body name="pusher">
      <joint name="px" type="slide" axis="1 0 0" damping="100" range="0 {WORKSPACE}"/>
      <joint name="py" type="slide" axis="0 1 0" damping="100" range="0 {WORKSPACE}"/>
      <geom name="tip" type="cylinder" size="{PUSHER_RADIUS} .02" pos="0 0 .025" mass="1"
        contype="1" conaffinity="6" friction=".4" rgba=".85 .3 .2 1"/>
    </body>
  </worldbody>
  <actuator>
    <position joint="px" kp="2500"/>
    <position joint="py" kp="2500"/>
  </actuator>
</mujoco>
"""


class PushTEnv(TopDownEnv):
    """Push the T to where the goal image shows it.

    ``state``: pusher x, y, block x, y, angle, pusher vx, vy, block vx, vy, omega (metres, radians,
    seconds). ``proprio``: pusher x, y, vx, vy. ``action``: displacement of the pusher's target from
    its measured position, metres, within +-0.02 along each axis, at 10 Hz.

    Success, after Chi et al. 2023 as DINO-WM measures it: pusher and block within 20/512 of the
    workspace width together (4-D norm) and the block's angle within 20 degrees.
    """

    task = "Push-T"
    state_names: ClassVar = (
        *("pusher_x", "pusher_y", "block_x", "block_y", "block_angle"),
        *("pusher_vx", "pusher_vy", "block_vx", "block_vy", "block_omega"),
    )
    proprio_names: ClassVar = ("pusher_x", "pusher_y", "pusher_vx", "pusher_vy")

    def __init__(self, image_size: int = 112, render_mode: str | None = "rgb_array") -> None:
        super().__init__(XML, [-MAX_STEP] * 2, [MAX_STEP] * 2, image_size, render_mode)
        joint = self.model.joint
        names = ("px", "py", "bx", "by", "bt")
        self._qpos = np.array([joint(name).qposadr[0] for name in names])
        self._qvel = np.array([joint(name).dofadr[0] for name in names])
        self._z = int(joint("bz").qposadr[0])
        self._tip = int(self.model.geom("tip").id)
        self._block = {int(self.model.geom(name).id) for name in ("bar", "stem")}
        # The feet sink into the table by a few micrometres: start every episode at that height,
        # so that a restored state does not bounce.
        self.set_state(np.array([0.1, 0.1, 0.3, 0.3, 0, 0, 0, 0, 0, 0]))
        self.data.ctrl[:] = 0.1
        mujoco.mj_step(self.model, self.data, nstep=200)
        self._rest = float(self.data.qpos[self._z])

    _rest: float = 0.0

    def get_state(self) -> Array:
        return np.concatenate([self.data.qpos[self._qpos], self.data.qvel[self._qvel]])

    def set_state(self, state: Array) -> None:
        self.data.qpos[self._qpos], self.data.qvel[self._qvel] = state[:5], state[5:]
        self.data.qpos[self._z] = self._rest
        self.data.qvel[self._z] = 0.0
        self.data.qacc_warmstart[:] = 0.0
        self.data.ctrl[:] = state[:2]
        mujoco.mj_forward(self.model, self.data)

    def sample_state(self, rng: np.random.Generator) -> Array:
        block = np.array([*rng.uniform(0.12, WORKSPACE - 0.12, 2), rng.uniform(-np.pi, np.pi)])
        while True:  # a pusher that does not start inside the block
            pusher = rng.uniform(0.03, WORKSPACE - 0.03, 2)
            if np.linalg.norm(pusher - block[:2]) > 0.11:
                return np.concatenate([pusher, block, np.zeros(5)])

    def success(self, state: Array, goal: Array) -> bool:
        distance = np.linalg.norm(state[:4] - goal[:4])
        return bool(
            distance < POSITION_TOLERANCE and self.angle_error(state, goal) < ANGLE_TOLERANCE
        )

    def block_success(self, state: Array, goal: Array) -> bool:
        """Success of the block alone, wherever the pusher is."""
        distance = np.linalg.norm(state[2:4] - goal[2:4])
        return bool(
            distance < POSITION_TOLERANCE and self.angle_error(state, goal) < ANGLE_TOLERANCE
        )

    @staticmethod
    def angle_error(state: Array, goal: Array) -> float:
        """Absolute difference of the block's angles, radians in [0, pi]."""
        return float(abs((state[4] - goal[4] + np.pi) % (2 * np.pi) - np.pi))

    def apply(self, action: Array) -> None:
        margin = PUSHER_RADIUS
        position = self.data.qpos[self._qpos[:2]]
        self.data.ctrl[:] = np.clip(position + action, margin, WORKSPACE - margin)

    def proprio(self) -> Array:
        return np.concatenate([self.data.qpos[self._qpos[:2]], self.data.qvel[self._qvel[:2]]])

    def contact(self) -> bool:
        pairs = self.data.contact.geom
        return any(self._tip in pair and self._block & set(pair) for pair in pairs.tolist())

    def objects(self) -> list[int]:
        return sorted(self._block)
