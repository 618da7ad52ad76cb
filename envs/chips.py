"""Granular chips: a blade pushes many small chips about a tray, seen from above."""

from __future__ import annotations

from typing import Any, ClassVar

import mujoco
import numpy as np

from envs.base import Array, TopDownEnv
from envs.task import Policy, Scene

TRAY = 0.5  # metres along each side
CHIP = 0.018  # metres: the width of a chip
BLADE = 0.1  # metres: the length of the blade
THICKNESS = 0.008  # metres
SPEED = 0.5  # metres per second, of the blade during a stroke
STARTS = ("scattered", "pile", "piles")
GOALS = ("square", "letter", "strokes")
LETTERS = {
    "C": (".##", "#..", "#..", ".##"),
    "L": ("#..", "#..", "#..", "###"),
    "T": ("###", ".#.", ".#.", ".#."),
    "U": ("#.#", "#.#", "#.#", "###"),
    "X": ("#.#", ".#.", ".#.", "#.#"),
}


class GranularChipsEnv(TopDownEnv):
    """Push the chips to where the goal image shows them.

    ``action``: one stroke of the blade, from x, y to x, y in metres. The blade comes down at the
    first point, perpendicular to the stroke, moves to the second at 0.5 m/s and lifts again. One
    step is one stroke, after which everything is at rest. ``state``: where the last stroke ended,
    then x, y of every chip. ``proprio``: where the last stroke ended. ``info`` has ``chips``, their
    positions ``[N, 2]`` in metres, and ``chamfer``, their Chamfer distance to the goal in chip
    widths.

    Chips slide with dry friction and collide; they do not stack. With ``rim=False``, chips that are
    pushed over the edge are lost: their positions in the state are outside the tray.

    Success: a Chamfer distance (sum of both mean nearest-neighbour distances) below one chip width.

    Args:
        chips: their number.
        rim: whether a rim keeps the chips in the tray.
        start: ``"scattered"``, ``"pile"``, ``"piles"``, or ``"any"`` of them at random.
        goal: ``"square"``, ``"letter"``, ``"strokes"`` (the result of a few random strokes that
            lose no chip), or ``"any"``.
        image_size: height and width of images, pixels.
        render_mode: ``"rgb_array"`` or None.
    """

    proprio_names = ("blade_x", "blade_y")
    action_names = ("start_x", "start_y", "end_x", "end_y")
    policies: ClassVar = ("explore", "wild", "random")
    goal_offset_matters: ClassVar = False
    scenes: ClassVar = (
        Scene(
            "Chips",
            hint="Upload an image, or take another seed.",
            robot="the ends of strokes",
            steps=10,
        ),
    )

    def __init__(
        self,
        chips: int = 50,
        rim: bool = True,
        start: str = "any",
        goal: str = "any",
        image_size: int = 112,
        render_mode: str | None = "rgb_array",
    ) -> None:
        if not 1 <= chips <= 200:
            raise ValueError(f"chips is {chips}; choose 1 to 200")
        if start not in (*STARTS, "any"):
            raise ValueError(f"start is {start!r}; choose one of {[*STARTS, 'any']}")
        if goal not in (*GOALS, "any"):
            raise ValueError(f"goal is {goal!r}; choose one of {[*GOALS, 'any']}")
        self.chips, self.rim, self.start, self.goal = chips, rim, start, goal
        places = [f"chip{i}_{axis}" for i in range(chips) for axis in "xy"]
        self.state_names = ("blade_x", "blade_y", *places)
        super().__init__(_xml(chips, rim), [0.0] * 4, [TRAY] * 4, image_size, render_mode)
        self._blade_at = np.full(2, TRAY / 2)
        self._blade = int(self.model.geom("blade").id)
        # Positions of lost chips: side by side, outside the image.
        self._fallen = np.stack([-1 - 2 * CHIP * np.arange(chips), np.full(chips, -1.0)], 1)
        self._lift()

    # Simulation ----------------------------------------------------------------------------

    def get_state(self) -> Array:
        return np.concatenate([self._blade_at, self.data.qpos[:-3]])

    def set_state(self, state: Array) -> None:
        self._blade_at = np.array(state[:2])
        self.data.qpos[:-3] = state[2:]
        self.data.qacc_warmstart[:] = 0.0
        self._lift()

    def sample_state(self, rng: np.random.Generator) -> Array:
        start = STARTS[rng.integers(3)] if self.start == "any" else self.start
        if start == "scattered":
            places = rng.uniform(CHIP, TRAY - CHIP, (self.chips, 2))
        else:
            piles = 1 if start == "pile" else int(rng.integers(2, 5))
            middles = rng.uniform(0.12, TRAY - 0.12, (piles, 2))
            places = middles[rng.integers(piles, size=self.chips)]
            places = places + rng.normal(0.0, 0.03, places.shape)
        return self._at_rest(places)

    def proprio(self) -> Array:
        return self._blade_at

    def contact(self) -> bool:
        return bool((self.data.contact.geom == self._blade).any())

    def objects(self) -> list[int]:
        return [int(self.model.geom(f"chip{i}").id) for i in range(self.chips)]

    def object_numbers(self) -> list[int]:
        return list(range(2, len(self.state_names)))

    # Evaluation ----------------------------------------------------------------------------

    def success(self, state: Array, goal: Array) -> bool:
        return self.chamfer(state, goal) < 1.0

    def chamfer(self, state: Array, goal: Array) -> float:
        """Sum of both mean nearest-neighbour distances between the chips, in chip widths."""
        ours, theirs = state[2:].reshape(-1, 2), goal[2:].reshape(-1, 2)
        distances = np.linalg.norm(ours[:, None] - theirs[None], axis=-1)
        return float(distances.min(0).mean() + distances.min(1).mean()) / CHIP

    def distance(self, states: Array, goal: Array) -> Array:
        chamfer = [self.chamfer(state, goal) for state in states.reshape(-1, states.shape[-1])]
        squared: Array = np.reshape(chamfer, states.shape[:-1]) ** 2
        return squared

    def errors(self, state: Array, goal: Array) -> dict[str, float]:
        return {"Chamfer distance, chip widths": self.chamfer(state, goal)}

    def metrics(self, path: Array, goal: Array) -> dict[str, bool | float]:
        return {
            "chamfer_start": self.chamfer(path[0], goal),
            "chamfer_final": self.chamfer(path[-1], goal),
        }

    def readings(self, states: Array) -> dict[str, Array]:
        """``chips``: how many are in the tray. An image does not show which chip is which."""
        return {"chips": (states[..., 2::2] >= 0).sum(-1).astype(states.dtype)}

    def sample_task(self, env_seed: int, goal_offset: int) -> tuple[Array, Array]:
        """What a reset with this seed samples: every goal can be reached from every start."""
        info = self.reset(seed=env_seed)[1]
        return info["state"], info["goal_state"]

    def explore(self, policy: str, rng: np.random.Generator) -> Policy:
        return StrokeExplorer(rng, wild=policy == "wild")

    def action_path(self, actions: Array) -> Array:
        points: Array = np.reshape(actions, (*np.shape(actions)[:-1], 2, 2))
        return points

    # Strokes -------------------------------------------------------------------------------

    def apply(self, action: Array) -> None:
        first, last = action[:2], action[2:]
        stroke = last - first
        length = float(np.linalg.norm(stroke))
        self._blade_at = np.array(last)
        if length < 1e-6:
            return
        velocity = SPEED * stroke / length
        self._make_room(first, stroke / length)
        self.data.qpos[-3:] = [*first, np.arctan2(velocity[1], velocity[0])]
        self.data.qvel[-3:-1] = self.data.ctrl[:2] = velocity
        self._simulate(length / SPEED)
        self._lift()
        self._simulate(0.1)
        self._rest()

    def advance(self, action: Array) -> None:
        self._touched = False
        self.apply(action)

    def _simulate(self, seconds: float) -> None:
        for _ in range(max(1, round(seconds / self.model.opt.timestep / 5))):
            mujoco.mj_step(self.model, self.data, nstep=5)
            self._touched |= self.contact()

    def _make_room(self, at: Array, ahead: Array) -> None:
        """Move chips from under the blade at `at` ``[2]`` to its nearer side; `ahead` ``[2]`` is
        the direction of the stroke."""
        places = self.data.qpos[:-3].reshape(-1, 2)
        along = (places - at) @ ahead
        across = (places - at) @ np.array([-ahead[1], ahead[0]])
        room = THICKNESS / 2 + CHIP / 2
        under = (np.abs(along) < room) & (np.abs(across) < BLADE / 2 + CHIP / 2)
        if under.any():
            side = np.where(along >= 0, room, -room)
            places += np.where(under, side - along, 0.0)[:, None] * ahead
            inside = (places >= 0).all(1)
            places[inside] = _without_overlap(places[inside])

    def _lift(self) -> None:
        """Put the blade outside the image."""
        self.data.qpos[-3:] = [-1.0, -2.0, 0.0]
        self.data.qvel[:] = 0.0
        self.data.ctrl[:] = 0.0
        mujoco.mj_forward(self.model, self.data)

    def _rest(self) -> None:
        """Stop all motion. Keep chips in the tray; without a rim, remove those that left it."""
        places = self.data.qpos[:-3].reshape(-1, 2)
        if self.rim:
            places[:] = places.clip(CHIP / 2, TRAY - CHIP / 2)
        else:
            gone = ((places < 0) | (places > TRAY)).any(1)
            places[gone] = self._fallen[gone]
        self._lift()

    def _at_rest(self, places: Array) -> Array:
        """The state with the chips near `places` ``[N, 2]``, without overlap."""
        return np.array([TRAY / 2, TRAY / 2, *_without_overlap(places).ravel()])

    # Goals and info ------------------------------------------------------------------------

    def _sample_start_and_goal(self) -> tuple[Array, Array]:
        start = self.sample_state(self.np_random)
        rng = self.np_random
        goal = GOALS[rng.integers(3)] if self.goal == "any" else self.goal
        if goal == "strokes":
            state = start
            for _ in range(5):
                after = self.physics(state, stroke_at_chips(rng, state)[None])[-1]
                if (after >= 0).all():  # goals show all chips
                    state = after
            return start, state
        mask = ("#",) if goal == "square" else LETTERS[rng.choice(sorted(LETTERS))]
        return start, self._at_rest(TRAY / 2 + _shape(mask, self.chips))

    def _info(self) -> dict[str, Any]:
        info = super()._info()
        info["chips"] = info["state"][2:].reshape(-1, 2).copy()
        info["chamfer"] = self.chamfer(info["state"], self._goal)
        return info


class StrokeExplorer:
    """An exploration policy: strokes at chips. If `wild`, strokes are up to four times as long, and
    every other one goes from a random point to a random point."""

    def __init__(self, rng: np.random.Generator, wild: bool) -> None:
        self.rng, self.wild = rng, wild

    def __call__(self, obs: Any, info: dict[str, Any]) -> Array:
        if self.wild and self.rng.uniform() < 0.5:
            return self.rng.uniform(0.0, TRAY, 4).astype(np.float32)
        longest = 0.8 * TRAY if self.wild else 0.2
        return stroke_at_chips(self.rng, info["state"], longest).astype(np.float32)


def stroke_at_chips(rng: np.random.Generator, state: Array, longest: float = 0.2) -> Array:
    """A stroke ``[4]`` that starts behind a random chip and pushes it, with its neighbours, by up
    to `longest` metres towards a random point of the tray."""
    places = state[2:].reshape(-1, 2)
    places = places[(places >= 0).all(1)]  # without lost chips
    chip = rng.choice(places) if len(places) else rng.uniform(0.0, TRAY, 2)
    towards = rng.uniform(0.1, TRAY - 0.1, 2) - chip
    towards /= np.linalg.norm(towards) + 1e-9
    first = chip - rng.uniform(0.02, 0.06) * towards
    last = chip + rng.uniform(0.03, longest) * towards
    stroke: Array = np.concatenate([first, last]).clip(0.0, TRAY)
    return stroke


def _without_overlap(places: Array) -> Array:
    """`places` ``[N, 2]`` of chips, moved until none overlap, within the tray."""
    for _ in range(200):
        places = places.clip(CHIP / 2, TRAY - CHIP / 2)
        offset = places[:, None] - places[None]
        distance = np.linalg.norm(offset, axis=-1) + 1e-9
        np.fill_diagonal(distance, np.inf)
        overlap = (1.02 * CHIP - distance).clip(0.0)
        if overlap.max() < 0.02 * CHIP:
            break
        places = places + 0.4 * ((overlap / distance)[..., None] * offset).sum(1)
    return places


def _shape(mask: tuple[str, ...], count: int) -> Array:
    """Places ``[count, 2]``, centred on the origin, that fill the cells ``#`` of `mask`."""
    filled = np.array([[cell == "#" for cell in row] for row in mask[::-1]])
    pitch = 1.15 * CHIP
    cell = pitch * np.sqrt(count / filled.sum())
    while True:  # enlarge the cells until there is room for all
        height, width = cell * np.array(filled.shape)
        y, x = np.meshgrid(
            np.arange(pitch / 2, height, pitch), np.arange(pitch / 2, width, pitch), indexing="ij"
        )
        inside = filled[(y / cell).astype(int), (x / cell).astype(int)]
        places = np.stack([x[inside] - width / 2, y[inside] - height / 2], 1)
        if len(places) >= count:
            # Of too many places, the outermost are left out.
            return places[np.argsort(np.abs(places).max(1), kind="stable")[:count]]
        cell *= 1.02


def _xml(chips: int, rim: bool) -> str:
    middle, half = TRAY / 2, TRAY / 2
    bodies = "\n".join(
        f'<body name="chip{i}" pos="0 0 {CHIP / 2}">'
        f'<joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 1 0"/>'
        f'<geom name="chip{i}" class="chip"/></body>'
        for i in range(chips)
    )
    walls = "\n".join(
        f'<geom class="wall" pos="{x} {y} .01" size="{sx} {sy} .01"/>'
        for x, y, sx, sy in (
            *((-0.01, middle, 0.01, half + 0.02), (TRAY + 0.01, middle, 0.01, half + 0.02)),
            *((middle, -0.01, half + 0.02, 0.01), (middle, TRAY + 0.01, half + 0.02, 0.01)),
        )
    )
    # Chips are spheres that slide in the plane, which look like discs from above. Dry friction in
    # their joints stands for friction with the tray, so the model needs no gravity.
    return f"""
<mujoco model="chips">
  <option timestep="0.005" integrator="implicitfast" gravity="0 0 0" iterations="30"
    cone="elliptic" solver="CG"/>
  <visual>
    <quality shadowsize="0" offsamples="4"/>
    <headlight ambient=".55 .55 .55" diffuse=".45 .45 .45" specular="0 0 0"/>
    <global offwidth="1024" offheight="1024"/>
  </visual>
  <default>
    <geom contype="0" conaffinity="0" friction=".3"/>
    <joint frictionloss=".3" damping="1"/>
    <default class="chip"><geom type="sphere" size="{CHIP / 2}" mass=".05" contype="1"
      conaffinity="7" solref=".02 1" rgba=".15 .35 .8 1"/></default>
    <default class="wall"><geom type="box" contype="2" conaffinity="1" rgba=".3 .3 .3 1"/></default>
  </default>
  <worldbody>
    <camera name="top" mode="fixed" pos="{middle} {middle} 1" projection="orthographic"
      fovy="{TRAY + 0.03}"/>
    <geom type="plane" pos="{middle} {middle} 0" size="{half} {half} .1" rgba=".93 .93 .9 1"/>
    {walls if rim else ""}
    {bodies}
    <body name="blade" pos="0 0 .01">
      <joint name="blade_x" type="slide" axis="1 0 0" frictionloss="0" damping="0"/>
      <joint name="blade_y" type="slide" axis="0 1 0" frictionloss="0" damping="0"/>
      <joint name="blade_turn" type="hinge" axis="0 0 1" frictionloss="0" damping="0"/>
      <geom name="blade" type="box" size="{THICKNESS / 2} {BLADE / 2} .01" mass="1" contype="4"
        conaffinity="1" rgba=".2 .2 .2 1"/>
    </body>
  </worldbody>
  <actuator>
    <velocity joint="blade_x" kv="500"/>
    <velocity joint="blade_y" kv="500"/>
    <velocity joint="blade_turn" kv="10"/>
  </actuator>
</mujoco>
"""
