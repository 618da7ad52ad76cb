"""A page on this machine where one sets a goal by hand, draws regions, and watches the planner.

    python -m worldmodel.app

and open http://127.0.0.1:8080. Reality and what the model imagines are shown side by side. Each tab
has an environment, an agent and a thread of its own; the weights are shared. Needs the extra
``app``: ``pip install 'worldmodel[app]'``.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import functools
import io
import ipaddress
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image

try:
    import nicegui
    from nicegui import ui
except ImportError:  # main() says what to install
    nicegui = None  # type: ignore[assignment]

import planners
from envs import maze, pusht
from planners import Trajectory
from worldmodel.agent import Agent, AgentConfig
from worldmodel.cli import parse_config
from worldmodel.cli import run as run_command
from worldmodel.control.guardrails import parse_rules
from worldmodel.errors import UserError
from worldmodel.measure.acting import Log, act_once, drawn_regions, judge
from worldmodel.measure.film import ALARM as BLUE
from worldmodel.measure.film import WARNING as VERMILION
from worldmodel.measure.judging import errors
from worldmodel.measure.tasks import check_fits, make_env, read_image, same_env, sample_tasks
from worldmodel.models.checkpoint import bundled_for, find_checkpoint, load_checkpoint, load_info
from worldmodel.models.decoder import load_decoder

Array = NDArray[Any]
GOAL_OFFSET = 25  # steps from the start to the first goal of Push-T, as in evaluations
LARGEST_UPLOAD = 5_000_000  # bytes
SMALLEST_REGION = 0.01  # of the image's side: less is a slip of the hand
CLEAR = 0.105  # metres between the centres of pusher and block that suffice at any angle
SECONDS_A_STEP = 0.1  # as in reality; chips, a stroke a step, take longer


@dataclass(frozen=True)
class AppConfig:
    """Where to listen, and what to show."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but this machine's own lets others use the page."""
    port: int = 8080
    """Port to listen on."""
    checkpoint: str | None = None
    """Bundled name or folder, in place of the one bundled for its environment."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise UserError(f"port is {self.port}: it must be 1 to 65535")


@dataclass(frozen=True)
class World:
    """An environment that can be picked."""

    env_id: str
    hint: str  # how to set the goal
    robot: str  # what regions are kept free of
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    steps: int = 50
    margin: float = 0.0  # metres around regions that the model needs
    checkpoint: str | None = None


PUSHT, MAZE, CHIPS = (f"worldmodel/{name}-v0" for name in ("PushT", "Maze", "GranularChips"))
BLOCK = ("Drag the block or the pusher; turn the block with the slider.", "the pusher's centre")
BALL = ("Drag the ball.", "the ball's centre")
STROKES = ("Upload an image, or take another seed.", "the ends of strokes")
WORLDS = {
    "Push-T": World(PUSHT, *BLOCK, margin=0.004),
    "Maze, U": World(MAZE, *BALL, {"layout": "U"}, margin=0.08),
    "Maze, medium": World(MAZE, *BALL, {"layout": "medium"}, margin=0.08),
    "Maze, random": World(MAZE, *BALL, {"layout": "random"}, margin=0.08),
    "Chips": World(CHIPS, *STROKES, steps=10),
}


def worlds_with(checkpoint: str | None) -> dict[str, World]:
    """WORLDS, those first that `checkpoint` was trained for, with it.

    Raises:
        UserError: no such checkpoint, or it is for none of them.
    """
    if checkpoint is None:
        return WORLDS
    info = load_info(find_checkpoint(checkpoint))
    theirs = {
        name: dataclasses.replace(
            world, checkpoint=checkpoint, env_kwargs={**info.env_kwargs, **world.env_kwargs}
        )
        for name, world in WORLDS.items()
        if same_env(world.env_id, info.env_id)
    }
    if not theirs:
        raise UserError(f"checkpoint {checkpoint} is for {info.env_id}, which the page cannot show")
    return theirs | {name: world for name, world in WORLDS.items() if name not in theirs}


# ------------------------------------------------------------------------------------ the session
_loading = threading.Lock()


@functools.cache
def _load(checkpoint: str) -> tuple[Any, ...]:
    """Model, encoder, info, and the decoder or None. Nobody changes them."""
    model, encoder, info = load_checkpoint(checkpoint)
    return model, encoder, info, load_decoder(checkpoint, model, info)


class Session:
    """An environment, its task, guardrails and agent: all that a tab shows. What is drawn with
    OpenGL belongs to one thread, so everything that is called here must be in the same.

    Attributes:
        goal: the goal image, uint8 ``[H, W, 3]``.
        goal_state: for the judge alone, ``[Ds]``; None if the goal was uploaded.
        guardrails: as they are written.
        agent: None before `begin`.
        log: of the run.
        imagined: frames of the plan that is carried out ``[T, H, W, 3]``, or None.
        path: where it imagines the robot to go, ``[T + 1, 2]`` in shares of the image, or None.

    Raises:
        UserError: the checkpoint or the seed is unusable.
    """

    def __init__(self, world: World, seed: int = 0) -> None:
        self.world = world
        with _loading:  # once, whoever comes first
            name = world.checkpoint or bundled_for(world.env_id)
            self.model, self.encoder, self.info, self.decoder = _load(name)
        self.env = make_env(world.env_id, world.env_kwargs, self.info.image_size)
        self.sim = cast(Any, self.env.unwrapped)
        check_fits(self.env, self.info)
        names = list(self.sim.state_names)
        movable = {"block": "block_x", "pusher": "pusher_x", "ball": "x"}
        self.things = {thing: names.index(x) for thing, x in movable.items() if x in names}
        self.guardrails: list[str] = []
        self.draw_task(seed)

    def draw_task(self, seed: int) -> None:
        """Start and goal of a seed, as evaluations draw them."""
        self.task = sample_tasks(self.env, 1, seed, GOAL_OFFSET)[0]
        self.seed = seed
        self.restart()
        self.set_goal(self.task.goal_state)

    def restart(self) -> None:
        """Put reality back to the start; goal and guardrails stay."""
        options = {"state": self.task.start_state}
        self.obs, info = self.env.reset(seed=self.task.env_seed, options=options)
        self._forget(info["state"])

    def _forget(self, state: Array) -> None:
        self.log = Log(frames=[self.obs["pixels"]], states=[state])
        self.agent: Agent | None = None
        self.imagined: Array | None = None
        self.path: Array | None = None

    # The goal ------------------------------------------------------------------------------
    def set_goal(self, state: Array) -> None:
        """Show the agent the image of a state ``[Ds]``."""
        self.goal_state: Array | None = state
        self.goal = self.sim.render_state(state)

    def nearest_thing(self, place: ArrayLike) -> str | None:
        """What is nearest to a place in the goal image, of what can be moved there."""
        point, state = self.sim.from_image(place), self._last_goal()
        apart = {t: np.linalg.norm(state[at : at + 2] - point) for t, at in self.things.items()}
        return min(apart, key=lambda thing: apart[thing], default=None)

    def move(self, thing: str, place: ArrayLike) -> None:
        """Put a thing of the goal to a place, in shares of the image, or as near as there is room
        for it."""
        state, at = self._last_goal(), self.things[thing]
        state[at : at + 2] = self.sim.from_image(place)
        if isinstance(self.sim, maze.MazeEnv):
            state = self.sim.settle(state)
        else:
            self._make_room(state)
        self.set_goal(state)

    def turn(self, degrees: float) -> None:
        """Set the angle of the goal's block."""
        state = self._last_goal()
        state[4] = np.deg2rad(degrees)
        self._make_room(state)
        self.set_goal(state)

    @property
    def degrees(self) -> float:
        """The angle of the goal's block, from -180 to 180."""
        return (float(np.rad2deg(self._last_goal()[4])) + 180) % 360 - 180

    def _last_goal(self) -> Array:
        known = self.task.goal_state if self.goal_state is None else self.goal_state
        return known.copy()

    def _make_room(self, state: Array) -> None:
        """Move the things of a state of Push-T so that neither is in the other or in a wall, and
        at rest."""
        pusher, block = state[:2], state[2:4]
        edge = CLEAR + pusht.PUSHER_RADIUS  # then there is room all around the block
        block[:] = block.clip(edge, pusht.WORKSPACE - edge)
        pusher[:] = pusher.clip(pusht.PUSHER_RADIUS, pusht.WORKSPACE - pusht.PUSHER_RADIUS)
        way = pusher - block + [1e-9, 0.0]
        pusher[:] = block + way * max(1.0, CLEAR / float(np.linalg.norm(way)))
        state[5:] = 0.0

    def upload(self, content: bytes, name: str) -> None:
        """Take a PNG file for the goal.

        Raises:
            UserError: it is none, is too large, or does not fit the model.
        """
        if len(content) > LARGEST_UPLOAD:
            raise UserError(f"{name} has {len(content)} bytes: {LARGEST_UPLOAD} are the most")
        if not content.startswith(b"\x89PNG\r\n"):
            raise UserError(f"{name} is not a PNG image: save the goal as PNG")
        self.goal = read_image(io.BytesIO(content), name, self.info.image_size)
        self.goal_state = None

    # Guardrails ----------------------------------------------------------------------------
    def add_region(self, corner: ArrayLike, opposite: ArrayLike, margin: float) -> None:
        """Forbid the robot a rectangle between two places in the image, in shares of it, and
        `margin` metres around.

        Raises:
            UserError: it is too small to be meant, or the margin is below 0.
        """
        corners = np.clip([corner, opposite], 0.0, 1.0)
        if (np.ptp(corners, axis=0) < SMALLEST_REGION).any():
            raise UserError("that is no rectangle: drag from one corner to the opposite one")
        (left, low), (right, high) = np.sort(self.sim.from_image(corners), axis=0)
        text = f"no_go:x={left:.4f}:{right:.4f},y={low:.4f}:{high:.4f},margin={margin:g}"
        parse_rules([text])
        self.guardrails = [*self.guardrails, text]

    def clear_regions(self) -> None:
        self.guardrails = []

    def regions(self) -> list[tuple[Array, bool]]:
        """What `worldmodel.plan` draws over reality."""
        return drawn_regions(self.env, parse_rules(self.guardrails))

    # The run -------------------------------------------------------------------------------
    def begin(self, steps: int) -> None:
        """Set out from where the robot is, for so many steps.

        Raises:
            UserError: there are no steps, or a guardrail does not suit the robot.
        """
        config = AgentConfig(guardrails=tuple(self.guardrails), seed=self.seed)
        agent = Agent(self.model, self.encoder, self.info, planners.make("cem"), config)
        agent.reset(self.goal, steps=steps)
        self._forget(self.log.states[-1])
        self.agent = agent

    def step(self) -> None:
        """One environment step. The agent is not told how it went."""
        assert self.agent is not None
        plans, measured = len(self.log.imagined), torch.from_numpy(self.obs["proprio"]).float()
        self.obs = act_once(self.agent, self.env, self.obs, self.log)
        if len(self.log.imagined) == plans:
            return
        z, proprio = self.log.imagined[-1]
        if self.decoder is not None:
            self.imagined = self.decoder.paint(z)
        if (where := self.agent.senses.find(("x", "y"), whole=False)) is not None:
            assert proprio is not None
            way = Trajectory(z, torch.cat([measured[None], proprio]))
            self.path = self.sim.in_image(where(way).numpy())

    @property
    def steps(self) -> int:
        """How many were done."""
        return len(self.log.actions)

    @property
    def reached(self) -> int:
        """Which of the imagined frames is the next, or now."""
        if self.agent is None or not self.log.plan_steps:
            return 0
        return max(0, self.steps - self.log.plan_steps[-1] - 1) // self.agent.frameskip

    def verdict(self) -> str:
        """What the judge says."""
        if self.goal_state is None:
            return "cannot tell: the state that an uploaded image shows is not known"
        found = judge(self.env, self.log.states, self.goal_state)
        said = "goal not reached yet"
        if found["success_any"]:
            left = "" if found["success_final"] else ", and left again"
            said = f"goal reached at step {found['first_success_step']}{left}"
        off = errors(self.env, self.log.states[-1], self.goal_state)
        parts = [name.partition(", ") for name in off]
        apart = [f"{name} {off[name + c + u]:.1f} {u}" for name, c, u in parts]
        return f"{said}; off by: {', '.join(apart)}"

    def close(self) -> None:
        self.env.close()


# --------------------------------------------------------------------------------------- the page
def as_url(pixels: Array) -> str:
    """An image ``[H, W, 3]`` that a page can hold."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def as_svg(shape: str, points: ArrayLike, side: int, style: str) -> str:
    """A polygon or polyline through `points` ``[n, 2]``, in shares of an image of this side."""
    corners = " ".join(f"{x:.2f},{y:.2f}" for x, y in side * np.clip(points, -1, 2))
    return f'<{shape} points="{corners}" style="vector-effect: non-scaling-stroke; {style}"/>'


FORBIDDEN = f"stroke: {VERMILION}; stroke-width: 2"
SHADED = f"{FORBIDDEN}; fill: {VERMILION}; fill-opacity: 0.28"
MARGIN = f"{FORBIDDEN}; stroke-dasharray: 5 4; fill: none"
HALO = "stroke: white; stroke-width: 6; fill: none"
IMAGINED = f"stroke: {BLUE}; stroke-width: 3; fill: none"
STYLE = f"""
    .panel {{ width: 340px; gap: 6px }}
    h2 {{ font-size: 15px; font-weight: 600; line-height: 1.3 }}
    .hint {{ font-size: 12.5px; line-height: 1.35; color: #555 }}
    .panel .hint {{ min-height: 34px }}
    .picture {{ width: 340px; height: 340px; outline: 1px solid #999 }}
    .status table {{ font-size: 13.5px; line-height: 1.4 }}
    .status th {{ text-align: left; vertical-align: top; font-weight: 600; padding-right: 12px;
        white-space: nowrap }}
    .status b {{ color: {VERMILION}; font-weight: 600 }}
    .frames {{ display: flex; gap: 10px }}
    .frames figure {{ margin: 0; font-size: 12px; text-align: center; color: #555 }}
    .frames img {{ width: 112px; height: 112px; box-sizing: content-box; border: 3px solid #ddd }}
    .frames .now {{ color: black; font-weight: 600 }}
    .frames .now img {{ border-color: {BLUE} }}
"""
NOT_TAKEN = f"not taken: a goal is a PNG file of at most {LARGEST_UPLOAD // 10**6} MB"


def chart(log: Log) -> dict[str, Any]:
    """What ECharts is to draw: the latent distance over the steps, and where guardrails acted."""
    line = [list(pair) for pair in zip(log.distance_steps, log.distances, strict=False)]
    mark = {"type": "scatter", "symbol": "triangle", "color": VERMILION}
    axis = {"type": "value", "min": 0, "nameLocation": "middle"}
    return {
        "animation": False,
        "grid": {"left": 58, "right": 12, "top": 28, "bottom": 40},
        "legend": {"top": 0},
        "xAxis": {**axis, "name": "step", "nameGap": 24, "minInterval": 1, "max": "dataMax"},
        "yAxis": {**axis, "name": "squared distance", "nameGap": 42},
        "series": [
            {"name": "latent distance to the goal", "type": "line", "data": line, "color": BLUE},
            {"name": "guardrail stepped in", **mark, "data": [[at, 0] for at in log.interventions]},
        ],
    }


class Tab:
    """One open page: its widgets, its session, and the thread that the session lives in."""

    def __init__(self, worlds: dict[str, World]) -> None:
        self.worlds = worlds
        self.worker = ThreadPoolExecutor(1, "session")
        self.session: Session | None = None
        self.running: object | None = None  # stands for the run that is going on
        self.opening = 0  # sessions that are asked for and not there yet
        self.closed = False
        self.corners: list[Array] = []  # of the rectangle that is being drawn
        self.held: str | None = None  # what is being dragged in the goal
        self.target: Array | None = None  # where to
        self._build()

    def _build(self) -> None:
        ui.colors(primary=BLUE, negative=VERMILION)
        ui.add_css(STYLE)
        ui.query(".nicegui-content").classes("p-4 gap-3")
        with ui.row().classes("items-center gap-3"):
            ui.label("worldmodel").classes("text-lg font-bold")
            self.pick = ui.select(
                [*self.worlds], value=next(iter(self.worlds)), label="environment"
            )
            self.pick.props("dense outlined").classes("w-44").on_value_change(self.open)
            self.seed = number("seed of start and goal", 0, 0, 10**6, "w-44").props("debounce=400")
            self.seed.on_value_change(self.draw_task)
            self.count = number("steps", 50, 1, 1000, "w-24")
            self.plan = ui.button("Plan", icon="play_arrow", on_click=self.act)
            self.stop = ui.button("Stop", icon="stop", on_click=self.halt).props("outline")
            ui.button("Reset", icon="replay", on_click=self.restart).props("outline")
            self.busy = ui.spinner(size="sm")
        with ui.row().classes("w-full items-start gap-5 no-wrap"):
            with ui.column().classes("panel"):
                self.rule = heading("Reality")
                self.reality = picture("reality", self.draw)
                with ui.row().classes("items-center gap-2"):
                    self.margin = number("margin, mm", 0, 0, 500, "w-28")
                    clear = ui.button("Clear regions", on_click=self.clear).props("outline")
            with ui.column().classes("panel"):
                self.hint = heading("Goal")
                self.goal = picture("goal", self.drag)
                with ui.row().classes("w-full items-center gap-4 no-wrap"):
                    self.file = ui.upload(
                        auto_upload=True,
                        max_file_size=LARGEST_UPLOAD,
                        on_upload=self.upload,
                        on_rejected=lambda: self.say(NOT_TAKEN),
                    )
                    self.file.props("accept=.png").classes("hidden")
                    pick_file = f"() => getElement({self.file.id}).$refs.qRef.pickFiles()"
                    upload = ui.button("Upload an image", icon="upload").props("outline no-wrap")
                    upload.on("click", js_handler=pick_file)
                    self.angle = ui.slider(min=-180, max=180, value=0).classes("angle")
                    self.angle.props("label").on("update:model-value", self.rotate, throttle=0.1)
            with ui.column().classes("status grow gap-3"):
                self.status = ui.html("", sanitize=False)
                self.chart = ui.echart(chart(Log()), renderer="svg").classes("w-full h-64")
        self.settings = [self.plan, self.margin, clear, upload, self.angle]
        with ui.column().classes("w-full gap-1 imagination"):
            self.imagination = heading("Imagination")
            self.strip = ui.html("", sanitize=False)

    # What is shown -------------------------------------------------------------------------
    def show(self) -> None:
        """Bring the page up to what the session is."""
        session = self.session
        if session is None or self.closed:
            return
        at_work = self.running is not None
        self.stop.set_enabled(at_work)
        for widget in self.settings:
            widget.set_enabled(not at_work)
        for picture in (self.reality, self.goal):
            picture.style(f"cursor: {'not-allowed' if at_work else 'crosshair'}")
        self.reality.set_source(as_url(session.log.frames[-1]))
        self.goal.set_source(as_url(session.goal))
        self.overlay(session)
        if "block" in session.things:
            self.angle.set_value(round(session.degrees))
        self.status.set_content(self._status(session))
        self.chart.options.update(chart(session.log))
        self.chart.update()
        if session.decoder is None:
            said = (
                "There is no decoder for this checkpoint: what is imagined cannot be shown as "
                "images. The blue line over reality shows where it imagines the robot to go."
            )
        elif session.imagined is None:
            said = "Press Plan: the frames that the model expects of its plan come here."
        else:
            said = (
                f"What the model expects of the plan that it made at step "
                f"{session.log.plan_steps[-1]}; framed: what is coming next."
            )
        self.imagination.set_text(said)
        self.strip.set_content(self._strip(session))

    def overlay(self, session: Session) -> None:
        """Draw regions, the imagined way and the rectangle of the moment over reality."""
        side = session.info.image_size
        shapes = [
            as_svg("polygon", region, side, SHADED if shaded else MARGIN)
            for region, shaded in session.regions()
        ]
        if session.path is not None:
            shapes += [as_svg("polyline", session.path, side, s) for s in (HALO, IMAGINED)]
        if len(self.corners) == 2:
            (left, top), (right, bottom) = self.corners
            rectangle = [(left, top), (right, top), (right, bottom), (left, bottom)]
            shapes.append(as_svg("polygon", rectangle, side, SHADED))
        self.reality.set_content("".join(shapes))

    def _status(self, session: Session) -> str:
        log, agent = session.log, session.agent
        doing = "ready" if agent is None else "acting" if self.running else "done"
        if agent is not None and agent.stop_reason:
            doing = f"<b>stands still: {agent.stop_reason}</b>"
        plan = "none yet"
        if log.plan_ms:
            plan = f"made at step {log.plan_steps[-1]}, in {log.plan_ms[-1]:.0f} ms"
        kept = f"{len(session.guardrails)} region(s)"
        if steps := log.interventions:
            kept += f"; <b>stepped in at {len(steps)} step(s), last at {steps[-1]}</b>"
        rows = {
            "Step": f"{session.steps} of {int(self.count.value or 1)}",
            "Agent": doing,
            "Plan": plan,
            "Guardrails": kept,
            "Judge says": session.verdict(),
        }
        lines = "".join(f"<tr><th>{name}</th><td>{said}</td></tr>" for name, said in rows.items())
        return f"<table>{lines}</table>"

    def _strip(self, session: Session) -> str:
        if session.imagined is None or session.agent is None:
            return ""
        first, each = session.log.plan_steps[-1], session.agent.frameskip
        figures = [
            f'<figure class="{"now" if at == session.reached else ""}"><img src="{as_url(frame)}">'
            f"<figcaption>step {first + each * (at + 1)}</figcaption></figure>"
            for at, frame in enumerate(session.imagined)
        ]
        return f'<div class="frames">{"".join(figures)}</div>'

    def say(self, message: str) -> None:
        ui.notify(message, type="negative", position="bottom", timeout=8000)

    # What is done --------------------------------------------------------------------------
    async def do(self, job: Callable[..., object], *arguments: Any) -> bool:
        """Run `job` in the session's thread, then show what came of it; False if it failed."""
        if self.closed:
            return False
        try:
            await asyncio.get_running_loop().run_in_executor(self.worker, job, *arguments)
        except UserError as error:
            if not self.closed:
                self.say(str(error))
            return False
        self.show()
        return True

    async def open(self) -> None:
        """Make the session of the environment that is picked."""
        self.running = None
        world = self.worlds[self.pick.value]
        self.count.value, self.margin.value = world.steps, 1e3 * world.margin
        self.hint.set_text(world.hint)
        self.rule.set_text(
            f"Drag a rectangle to keep {world.robot} out of it (dashed: its margin). "
            "Blue: where it imagines to go."
        )
        self.angle.set_visibility(same_env(world.env_id, PUSHT))
        seed = int(self.seed.value or 0)

        def replace() -> None:
            self._end()
            self.session = Session(world, seed)

        self.opening += 1
        self.busy.set_visibility(True)
        try:
            await self.do(replace)
        finally:
            self.opening -= 1
            self.busy.set_visibility(self.opening > 0)

    def free(self, stop: bool = False) -> Session | None:
        """The session, unless it is at work, or about to be replaced: then nothing can be changed.
        `stop` ends the work."""
        if stop:
            self.running = None
        return None if self.running is not None or self.opening else self.session

    async def draw_task(self) -> None:
        if self.seed.value is not None and (session := self.free(stop=True)) is not None:
            await self.do(session.draw_task, int(self.seed.value))

    async def act(self) -> None:
        if (session := self.free()) is None:
            return
        mine = self.running = object()
        steps = int(self.count.value or 1)
        try:
            going = await self.do(session.begin, steps)
            while going and self.running is mine and session.steps < steps:
                begun = time.monotonic()
                going = await self.do(session.step)
                await asyncio.sleep(max(0.0, begun + SECONDS_A_STEP - time.monotonic()))
        finally:
            if self.running is mine:
                self.running = None
            self.show()

    def halt(self) -> None:
        self.running = None

    async def restart(self) -> None:
        if (session := self.free(stop=True)) is not None:
            await self.do(session.restart)

    async def draw(self, event: Any) -> None:
        """The mouse over reality: a rectangle from where it is pressed to where it is let go."""
        if (session := self.free()) is None:
            return
        place = np.array([event.image_x, event.image_y]) / session.info.image_size
        if event.type == "mousedown":
            self.corners = [place]
        elif self.corners and event.buttons & 1:
            self.corners = [self.corners[0], place]
            self.overlay(session)
        elif self.corners:  # let go, perhaps outside
            corners, self.corners = [*self.corners, place][:2], []
            if not await self.do(session.add_region, *corners, (self.margin.value or 0) / 1e3):
                self.overlay(session)

    async def clear(self) -> None:
        if (session := self.free()) is not None:
            await self.do(session.clear_regions)

    async def drag(self, event: Any) -> None:
        """The mouse over the goal: what is nearest goes along."""
        if (session := self.free()) is None:
            return
        place = np.array([event.image_x, event.image_y]) / session.info.image_size
        if event.type == "mousedown":
            self.held = session.nearest_thing(place)
        elif not event.buttons & 1:
            self.held = None
        elif (thing := self.held) is not None:
            under_way, self.target = self.target is not None, place
            while not under_way and self.target is not None:  # of many moves, only the last counts
                place = self.target
                await self.do(session.move, thing, place)
                if self.target is place:
                    self.target = None

    async def rotate(self, event: Any) -> None:
        if (session := self.free()) is not None:
            await self.do(session.turn, float(event.args))

    async def upload(self, event: Any) -> None:
        self.file.reset()
        if event.file.size() > LARGEST_UPLOAD:  # whatever the browser let through
            self.say(NOT_TAKEN)
        elif (session := self.free()) is not None:
            await self.do(session.upload, await event.file.read(), event.file.name)

    def _end(self) -> None:
        if self.session is not None:
            self.session.close()
        self.session = None

    def close(self) -> None:
        """End the run and close the environment, in its own thread."""
        if self.closed:
            return
        self.closed, self.running = True, None
        self.worker.submit(self._end)
        self.worker.shutdown(wait=False)


def number(label: str, value: int, low: int, high: int, width: str) -> ui.number:
    field = ui.number(label, value=value, min=low, max=high, precision=0)
    return field.props("dense outlined").classes(width)


def heading(title: str) -> ui.label:
    """A title, and the line below it, which is given back."""
    ui.html(f"<h2>{title}</h2>", sanitize=False)
    return ui.label().classes("hint")


def picture(name: str, on_mouse: Callable[..., object]) -> ui.interactive_image:
    events = ["mousedown", "mousemove", "mouseup"]
    image = ui.interactive_image(on_mouse=on_mouse, events=events, sanitize=False)
    return image.classes(f"picture {name}")


# ------------------------------------------------------------------------------------ the command
def check_address(host: str, port: int) -> None:
    """Whether one can listen there; says so where others can reach it.

    Raises:
        UserError: one cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as server:
            address = server.getsockname()[0]
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}): give another "
            "--port or --host"
        ) from None
    if not ipaddress.ip_address(address).is_loopback:
        print(
            f"warning: whoever can reach {host} can use this page, which asks for no password",
            file=sys.stderr,
        )


@run_command
def main(argv: list[str] | None = None) -> int | None:
    """Serve the page until Ctrl-C."""
    config = parse_config(AppConfig, argv, "worldmodel.app", "A page to set goals and watch plans.")
    if nicegui is None:
        raise UserError("the page needs NiceGUI: pip install 'worldmodel[app]'")
    worlds = worlds_with(config.checkpoint)
    check_address(config.host, config.port)
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))  # one core is the page's
    tabs: set[Tab] = set()

    async def page() -> None:
        tab = Tab(worlds)
        tabs.add(tab)

        def close() -> None:
            tabs.discard(tab)
            tab.close()

        ui.context.client.on_delete(close)
        await ui.context.client.connected()
        await tab.open()

    def close_all() -> None:
        for tab in tabs:
            tab.close()

    nicegui.app.on_shutdown(close_all)
    address = f"[{config.host}]" if ":" in config.host else config.host
    print(f"open http://{address}:{config.port} in a browser; Ctrl-C ends it", flush=True)
    ui.run(
        page,
        host=config.host,
        port=config.port,
        title="worldmodel",
        reload=False,
        show=False,
        show_welcome_message=False,
    )
    return 0
