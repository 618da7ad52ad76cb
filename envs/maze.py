"""Maze: a ball rolls through corridors, seen from above."""

from __future__ import annotations

from typing import ClassVar

import mujoco
import numpy as np

from envs.base import Array, TopDownEnv
from envs.random_walk import RandomWalk
from envs.task import Policy, Scene

CELL = 0.25  # metres
RADIUS = CELL / 4
ROOM = 0.24 * CELL  # largest offset of a start or goal from the cell's centre along each axis
MAX_SPEED = 0.75  # metres per second
LAYOUTS = {
    "U": ["#####", "#...#", "###.#", "#...#", "#####"],
    "medium": [
        *("########", "#..##..#", "#..#...#", "##...###"),
        *("#..#...#", "#.#..#.#", "#...#..#", "########"),
    ],
}
RANDOM_SIZE = 7  # cells along each side of a random layout, border included


class MazeEnv(TopDownEnv):
    """Roll the ball to where the goal image shows it.

    ``state``: x, y, vx, vy (metres, metres per second; a cell is 0.25 m wide) and the layout's
    seed (0 unless the layout is random), so that restoring a state restores its walls.
    ``proprio``: x, y, vx, vy. ``action``: commanded velocity, metres per second, within +-0.75
    along each axis, at 10 Hz; the ball has inertia and follows within about 0.15 s.

    ``layout``: ``"U"``, ``"medium"``, or ``"random"`` (a new maze from each reset's seed). Success:
    within half a cell of the goal.
    """

    variations: ClassVar = ("background", "object", "light", "camera")  # there is no friction
    disturbances: ClassVar = ("teleport", "vanish", "ghost", "colour", "shape", "camera")
    contact_disturbances: ClassVar = ("ghost",)
    state_names = ("x", "y", "vx", "vy", "layout_seed")
    proprio_names = ("x", "y", "vx", "vy")
    action_names = ("vx", "vy")
    goal_offset_matters: ClassVar = False
    scenes: ClassVar = tuple(
        Scene(
            f"Maze, {layout}",
            hint="Drag the ball.",
            robot="the ball's centre",
            env_kwargs={"layout": layout},
            margin=0.08,
        )
        for layout in ("U", "medium", "random")
    )
    movable: ClassVar = {"ball": "x"}

    def __init__(
        self, layout: str = "U", image_size: int = 112, render_mode: str | None = "rgb_array"
    ) -> None:
        if layout != "random" and layout not in LAYOUTS:
            raise ValueError(f"layout is {layout!r}; choose one of {[*LAYOUTS, 'random']}")
        self.layout = layout
        self.cells = RANDOM_SIZE if layout == "random" else len(LAYOUTS[layout])
        super().__init__(
            _xml(self.cells), [-MAX_SPEED] * 2, [MAX_SPEED] * 2, image_size, render_mode
        )
        self._walls = np.array(
            [
                [self.model.geom(f"wall{r}_{c}").id for c in range(self.cells)]
                for r in range(self.cells)
            ]
        )
        self._ball = int(self.model.geom("ball").id)
        self._layout_seed = -1
        self._free: Array = np.zeros((0, 2))
        self._set_layout(0)

    def get_state(self) -> Array:
        return np.concatenate([self.data.qpos, self.data.qvel, [self._layout_seed]])

    def set_state(self, state: Array) -> None:
        seed = int(state[4])
        if seed != state[4] or seed < 0 or (seed and self.layout != "random"):
            allowed = "a whole number from 0 up" if self.layout == "random" else "0"
            raise ValueError(
                f"layout_seed is {state[4]}; in layout {self.layout!r} it is {allowed}"
            )
        self._set_layout(seed)
        self.data.qpos[:], self.data.qvel[:] = state[:2], state[2:4]
        self.data.qacc_warmstart[:] = 0.0
        self.data.ctrl[:] = 0.0
        mujoco.mj_forward(self.model, self.data)

    def _sample_start_and_goal(self) -> tuple[Array, Array]:
        if self.layout == "random":  # start and goal must lie in the same maze
            self._set_layout(int(self.np_random.integers(1, 2**31)))
        return super()._sample_start_and_goal()

    def sample_state(self, rng: np.random.Generator) -> Array:
        cell = self._free[rng.integers(len(self._free))]
        position = cell + rng.uniform(-ROOM, ROOM, 2)
        return np.array([*position, 0.0, 0.0, self._layout_seed])

    def sample_task(self, env_seed: int, goal_offset: int) -> tuple[Array, Array]:
        """What a reset with this seed samples: every goal can be reached from every start."""
        info = self.reset(seed=env_seed)[1]
        return info["state"], info["goal_state"]

    def settle(self, state: Array) -> Array:
        """The nearest state at rest that `sample_state` can return."""
        places = np.clip(state[:2], self._free - ROOM, self._free + ROOM)
        nearest = places[np.linalg.norm(places - state[:2], axis=1).argmin()]
        return np.array([*nearest, 0.0, 0.0, state[4]])

    def success(self, state: Array, goal: Array) -> bool:
        return bool(np.linalg.norm(state[:2] - goal[:2]) < CELL / 2 and state[4] == goal[4])

    def distance(self, states: Array, goal: Array) -> Array:
        squared: Array = ((states[..., :2] - goal[:2]) ** 2).sum(-1) / (CELL / 2) ** 2
        return squared

    def errors(self, state: Array, goal: Array) -> dict[str, float]:
        return {"distance, cells": float(np.linalg.norm(state[:2] - goal[:2])) / CELL}

    def explore(self, policy: str, rng: np.random.Generator) -> Policy:
        return RandomWalk(rng, self.action_space, persistence=8.0)

    def apply(self, action: Array) -> None:
        self.data.ctrl[:] = action

    def proprio(self) -> Array:
        return np.concatenate([self.data.qpos, self.data.qvel])

    def contact(self) -> bool:
        return bool((self.data.contact.geom == self._ball).any())

    def objects(self) -> list[int]:
        return [self._ball]

    def _set_layout(self, seed: int) -> None:
        """Build the layout of `seed`: the walls of free cells move below the floor."""
        if seed == self._layout_seed:
            return
        grid = _random_layout(seed) if self.layout == "random" else LAYOUTS[self.layout]
        wall = np.array([[cell == "#" for cell in row] for row in grid])
        self.model.geom_pos[self._walls, 2] = np.where(wall, CELL / 4, -2.0)
        self.model.geom_rgba[self._walls, 3] = wall  # hidden walls would take rendering time
        rows, columns = np.nonzero(~wall)
        self._free = CELL * np.stack([columns + 0.5, self.cells - rows - 0.5], axis=1)
        self._layout_seed = seed


def _random_layout(seed: int) -> list[str]:
    """A maze made by depth-first search (Jamis Buck's "recursive backtracker"), with two more walls
    opened, so that some goals can be reached by two paths."""
    rng = np.random.default_rng(seed)
    grid = np.full((RANDOM_SIZE, RANDOM_SIZE), "#")
    stack = [(1, 1)]
    grid[1, 1] = "."
    while stack:
        row, column = stack[-1]
        ahead = [
            (row + dr, column + dc)
            for dr, dc in ((0, 2), (2, 0), (0, -2), (-2, 0))
            if 0 < row + dr < RANDOM_SIZE and 0 < column + dc < RANDOM_SIZE
            if grid[row + dr, column + dc] == "#"
        ]
        if not ahead:
            stack.pop()
            continue
        target = ahead[rng.integers(len(ahead))]
        grid[(row + target[0]) // 2, (column + target[1]) // 2] = "."
        grid[target] = "."
        stack.append(target)
    inner = [
        (r, c)
        for r in range(1, RANDOM_SIZE - 1)
        for c in range(1, RANDOM_SIZE - 1)
        if (r + c) % 2 and grid[r, c] == "#"
    ]
    for index in rng.choice(len(inner), 2, replace=False):
        grid[inner[index]] = "."
    return ["".join(row) for row in grid]


def _xml(cells: int) -> str:
    width = CELL * cells
    half, edge, middle = width / 2, CELL / 2, width / 2 - CELL
    inside = range(1, cells - 1)
    # The ball collides with one box a cell. Rendering time grows with the number of boxes, so the
    # border, which is the same in all layouts, is rendered as four boxes.
    walls = "\n".join(
        f'<geom name="wall{row}_{column}" class="wall" '
        f'group="{0 if row in inside and column in inside else 3}" '
        f'pos="{CELL * (column + 0.5)} {CELL * (cells - row - 0.5)} 0"/>'
        for row in range(cells)
        for column in range(cells)
    )
    border = "\n".join(
        f'<geom class="wall" contype="0" conaffinity="0" pos="{x} {y} {CELL / 4}" '
        f'size="{size_x} {size_y} {CELL / 4}"/>'
        for x, y, size_x, size_y in (
            *((half, edge, half, edge), (half, width - edge, half, edge)),
            *((edge, half, edge, middle), (width - edge, half, edge, middle)),
        )
    )
    return f"""
<mujoco model="maze">
  <option timestep="0.01" integrator="implicitfast"/>
  <visual>
    <quality shadowsize="0" offsamples="4"/>
    <headlight ambient=".55 .55 .55" diffuse=".45 .45 .45" specular="0 0 0"/>
    <global offwidth="1024" offheight="1024"/>
  </visual>
  <default>
    <default class="wall"><geom type="box" size="{CELL / 2} {CELL / 2} {CELL / 4}" friction="0"
      condim="1" contype="2" conaffinity="1" rgba=".35 .4 .45 1"/></default>
  </default>
  <worldbody>
    <camera name="top" mode="fixed" pos="{half} {half} 5" projection="orthographic" fovy="{width}"/>
    <geom type="plane" pos="{half} {half} 0" size="{width} {width} .1" contype="0" conaffinity="0"
      rgba=".93 .92 .88 1"/>
    {walls}
    {border}
    <body name="ball" pos="0 0 {RADIUS}">
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
      <geom name="ball" type="sphere" size="{RADIUS}" mass="1" friction="0" condim="1"
        contype="1" conaffinity="2" rgba=".1 .55 .3 1"/>
    </body>
  </worldbody>
  <actuator>
    <velocity joint="x" kv="7"/>
    <velocity joint="y" kv="7"/>
  </actuator>
</mujoco>
"""
