"""Push-T: a round pusher moves a T-shaped block on a table, seen from above."""

from __future__ import annotations

from typing import Any, ClassVar

import mujoco
import numpy as np

from envs.base import Array, TopDownEnv
from envs.task import Policy, Scene, Task

WORKSPACE = 0.512  # metres: one millimetre per pixel of the 512-pixel original
PUSHER_RADIUS = 0.015
MAX_STEP = 0.02  # metres the pusher's target may move per action, along each axis
POSITION_TOLERANCE = WORKSPACE * 20 / 512
ANGLE_TOLERANCE = np.deg2rad(20)
CLEARANCE = 0.105  # metres between the centres of pusher and block that suffice at any angle

# The T is a 120 x 30 mm bar on a 30 x 90 mm stem; the origin of its frame is its centre of mass.
# It rests on three feet. Their friction with the table makes it slide and rotate as a pushed block
# does.
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


class PushTask(Task):
    """What counts as success. A state begins with pusher x, y, block x, y, angle (metres, radians).

    Success, after Chi et al. 2023 as DINO-WM measures it: pusher and block within 20/512 of the
    workspace width together (4-D norm) and the block's angle within 20 degrees.
    """

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

    def distance(self, states: Array, goal: Array) -> Array:
        position = np.linalg.norm(states[..., :4] - goal[:4], axis=-1) / POSITION_TOLERANCE
        angle = (states[..., 4] - goal[4] + np.pi) % (2 * np.pi) - np.pi
        squared: Array = position**2 + (angle / ANGLE_TOLERANCE) ** 2
        return squared

    def errors(self, state: Array, goal: Array) -> dict[str, float]:
        return {
            "pusher, mm": 1e3 * float(np.linalg.norm(state[:2] - goal[:2])),
            "block, mm": 1e3 * float(np.linalg.norm(state[2:4] - goal[2:4])),
            "angle, degrees": float(np.rad2deg(self.angle_error(state, goal))),
        }

    def metrics(self, path: Array, goal: Array) -> dict[str, bool | float]:
        solved = [self.block_success(state, goal) for state in path[1:]]
        return {"block_success_any": any(solved), "block_success_final": solved[-1]}


class PushTEnv(PushTask, TopDownEnv):
    """Push the T to where the goal image shows it; success as in `PushTask`.

    ``state``: pusher x, y, block x, y, angle, pusher vx, vy, block vx, vy, omega (metres, radians,
    seconds). ``proprio``: pusher x, y, vx, vy. ``action``: displacement of the pusher's target from
    its measured position, metres, within +-0.02 along each axis, at 10 Hz.
    """

    state_names = (
        *("pusher_x", "pusher_y", "block_x", "block_y", "block_angle"),
        *("pusher_vx", "pusher_vy", "block_vx", "block_vy", "block_omega"),
    )
    proprio_names = ("pusher_x", "pusher_y", "pusher_vx", "pusher_vy")
    action_names = ("dx", "dy")
    policies: ClassVar = ("explore", "wild", "random")
    scenes: ClassVar = (
        Scene(
            "Push-T",
            hint="Drag the block or the pusher; turn the block with the slider.",
            robot="the pusher's centre",
            margin=0.004,
        ),
    )
    movable: ClassVar = {"block": "block_x", "pusher": "pusher_x"}
    turnable: ClassVar = "block_angle"

    def __init__(self, image_size: int = 112, render_mode: str | None = "rgb_array") -> None:
        super().__init__(XML, [-MAX_STEP] * 2, [MAX_STEP] * 2, image_size, render_mode)
        joint = self.model.joint
        names = ("px", "py", "bx", "by", "bt")
        self._qpos = np.array([joint(name).qposadr[0] for name in names])
        self._qvel = np.array([joint(name).dofadr[0] for name in names])
        self._z = int(joint("bz").qposadr[0])
        self._tip = int(self.model.geom("tip").id)
        self._block = {int(self.model.geom(name).id) for name in ("bar", "stem")}
        # The feet sink into the table by a few micrometres. Every episode starts at that height, so
        # that a restored state does not bounce.
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
        while True:  # until the pusher is outside the block
            pusher = rng.uniform(0.03, WORKSPACE - 0.03, 2)
            if np.linalg.norm(pusher - block[:2]) > 0.11:
                return np.concatenate([pusher, block, np.zeros(5)])

    def explore(self, policy: str, rng: np.random.Generator) -> Policy:
        return PushExplorer(
            rng, float(self.action_space.high[0]), wild=0.5 if policy == "wild" else 0.0
        )

    def settle(self, state: Array) -> Array:
        state = state.copy()
        pusher, block = state[:2], state[2:4]
        edge = CLEARANCE + PUSHER_RADIUS  # room for the pusher on every side of the block
        block[:] = block.clip(edge, WORKSPACE - edge)
        pusher[:] = pusher.clip(PUSHER_RADIUS, WORKSPACE - PUSHER_RADIUS)
        offset = pusher - block + [1e-9, 0.0]
        pusher[:] = block + offset * max(1.0, CLEARANCE / float(np.linalg.norm(offset)))
        state[5:] = 0.0
        return state

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

    def object_numbers(self) -> list[int]:
        return [2, 3, 4, 7, 8, 9]


class PushExplorer:
    """An exploration policy that pushes the block and moves round it to push from another side.

    Half of the pushes chase a random point near the block's centre of mass, often far enough from
    it to rotate the block. The other half repeat one action for several steps, as a planner's
    candidates do. A push ends when the block comes near a wall, where it can hardly be moved any
    more, and a new push starts towards the inside.

    Args:
        rng: source of the randomness.
        max_step: bound of actions, metres.
        wild: share of decisions that start a burst: a few steps of a random action, wherever the
            block ends up.
    """

    BURST = 5  # steps
    SIZE = 0.1  # metres from the block's centre of mass to its furthest point, and a little more
    BESIDE = 0.1  # metres from the block's centre of mass to where a push begins

    def __init__(self, rng: np.random.Generator, max_step: float, wild: float = 0.0) -> None:
        self.rng, self.max_step, self.wild = rng, max_step, wild
        self.steps_left = 0
        self.repeated: Array | None = None  # the action that is repeated
        self.careful = True  # whether to keep the block away from the walls
        self.beside: Array | None = None  # where to go before pushing
        self.point = np.zeros(2)  # the point to chase, metres in the block's frame
        self.speed = max_step
        self.last = np.full(2, np.inf)  # the pusher's previous position

    def __call__(self, obs: Any, info: dict[str, Any]) -> Array:
        pusher, block, angle = info["state"][:2], info["state"][2:4], info["state"][4]
        stuck = float(np.linalg.norm(pusher - self.last)) < 0.15 * self.speed
        self.last = pusher
        if self.beside is not None and np.linalg.norm(pusher - self.beside) < 0.015:
            self.beside = None
        towards = block - pusher
        pushes = self.beside is None and self.careful
        if self.steps_left == 0 or stuck or (pushes and self._meets_wall(block, towards)):
            self._decide(pusher, block, stuck)
        self.steps_left -= 1
        if self.repeated is not None:
            step = self.repeated
        elif self.beside is not None:
            step = self._around(
                pusher, block, _shortened(self.beside - pusher, 1.4 * self.max_step)
            )
        else:
            cos, sin = np.cos(angle), np.sin(angle)
            chased = block + np.array([[cos, -sin], [sin, cos]]) @ self.point
            step = _shortened(chased - pusher, self.speed)
        step = step + self.rng.normal(0.0, 0.15 * self.max_step, 2)
        return np.clip(step, -self.max_step, self.max_step).astype(np.float32)

    def _decide(self, pusher: Array, block: Array, stuck: bool) -> None:
        """Choose what to do next: repeat an action roughly towards the block, chase a point of the
        block, or go to where the block can be pushed towards the inside."""
        self.speed = self.max_step * self.rng.uniform(0.25, 0.75)
        self.point = self.rng.normal(0.0, 0.04, 2)
        self.beside = self.repeated = None
        self.careful = not (self.wild and self.rng.uniform() < self.wild)
        towards = block - pusher
        if not self.careful:
            self.repeated = self.rng.normal(0.0, self.max_step * self.rng.uniform(0.1, 1.0), 2)
            self.steps_left = self.BURST
        elif stuck:  # back off in a random direction
            self.repeated = self.rng.uniform(-self.max_step, self.max_step, 2)
            self.steps_left = int(self.rng.integers(3, 8))
        elif self._meets_wall(block, towards) or self.rng.uniform() < 0.1:
            inside = self.rng.uniform(0.15, WORKSPACE - 0.15, 2) - block
            beside = block - self.BESIDE * inside / (np.linalg.norm(inside) + 1e-9)
            self.beside = np.clip(beside, 0.016, WORKSPACE - 0.016)
            self.steps_left = int(self.rng.integers(20, 40))
        elif self.rng.uniform() < 0.5:
            angle = np.arctan2(towards[1], towards[0]) + self.rng.normal(0.0, 0.5)
            length = self.max_step * self.rng.uniform(0.1, 1.2)
            self.repeated = length * np.array([np.cos(angle), np.sin(angle)])
            self.steps_left = int(self.rng.integers(3, 10))
        else:
            self.steps_left = int(self.rng.integers(8, 24))

    def _meets_wall(self, block: Array, towards: Array) -> bool:
        """Whether the block soon meets a wall if it is pushed in the direction `towards`."""
        ahead = block + 0.08 * towards / (np.linalg.norm(towards) + 1e-9)
        outward = (ahead - WORKSPACE / 2) * towards > 0
        outside = np.abs(ahead - WORKSPACE / 2) > WORKSPACE / 2 - self.SIZE
        return bool((outward & outside).any())

    def _around(self, pusher: Array, block: Array, step: Array) -> Array:
        """`step` without its component towards the block, if the block is close."""
        away = pusher - block
        distance = float(np.linalg.norm(away)) + 1e-9
        inward = -float(step @ away) / distance
        if distance > self.BESIDE or inward <= 0:
            return step
        along = step + inward * away / distance
        if np.linalg.norm(along) < 0.2 * inward:  # straight at the block: choose a side
            along = np.array([-away[1], away[0]])
        return along


def _shortened(step: Array, length: float) -> Array:
    """`step`, shortened to `length` if it is longer."""
    return step * min(1.0, length / (float(np.linalg.norm(step)) + 1e-9))
