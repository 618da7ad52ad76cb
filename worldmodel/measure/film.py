"""Animations of episodes, as GIF and MP4: camera images beside the goal, the frames that the plan
imagines below them, and the latent distance to the goal."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from envs.task import task_of
from worldmodel.control.guardrails import Rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]
SIDE = 256  # pixels of reality and of the goal
MOST_FRAMES = 300  # of an animation
BAR = 26  # pixels of the line below reality
TILE = 112  # at most, of an imagined frame
CHART = 150  # of the chart
TEXT = (40, 40, 40)
WARNING = "#D55E00"  # vermilion, from the colour-blind-safe palette of Okabe and Ito
ALARM = "#0072B2"  # blue, likewise
FONT = ImageFont.load_default(size=12)


class Imagination(NamedTuple):
    """What a plan predicted.

    Attributes:
        step: the environment step in which it was made.
        frames: predicted images ``[T, H, W, 3]``.
        every: environment steps between two of them.
        feasible: whether it satisfied the guardrails.
        robot: predicted positions of the robot, as fractions of the image ``[T, 2]``, or None.
    """

    step: int
    frames: Array
    every: int
    feasible: bool = True
    robot: Array | None = None


@dataclass(frozen=True)
class Film:
    """An episode, for people to look at.

    Attributes:
        frames: camera images, uint8 ``[H, W, 3]``, before the first step and after each.
        goal: goal image.
        label: text below the goal.
        first_success: the step in which the goal was reached, or None.
        regions: of guardrails: polygons ``[n, 2]`` in fractions of the image, and whether to shade
            them.
        interventions: steps in which a guardrail changed the action.
        surprises: steps with a surprise.
        imagined: what each plan predicted.
        distances: steps and latent distances to the goal.
        clearances: steps and predicted distances from a violation; below 0 is a violation.
        unit: of clearances.
    """

    frames: Sequence[Array]
    goal: Array
    label: str = "goal"
    first_success: int | None = None
    regions: Sequence[tuple[Array, bool]] = ()
    interventions: Sequence[int] = ()
    surprises: Sequence[int] = ()
    imagined: Sequence[Imagination] = ()
    distances: Sequence[tuple[int, float]] = ()
    clearances: Sequence[tuple[int, float]] = ()
    unit: str = ""

    @property
    def steps(self) -> int:
        """Environment steps."""
        return len(self.frames) - 1


def animate(film: Film) -> list[Image.Image]:
    """The pictures of an animation, 2 * SIDE pixels wide: one a step, or MOST_FRAMES evenly spaced
    ones of a longer episode."""
    tile = min(TILE, (2 * SIDE) // max(1, max((len(i.frames) for i in film.imagined), default=1)))
    strip = tile + 20 if film.imagined else 0
    chart = Chart(lambda axes: _draw_progress(axes, film)) if len(film.distances) > 1 else None
    height = SIDE + BAR + strip + (CHART if chart else 0)
    goal = scaled(film.goal, SIDE)
    count = min(len(film.frames), MOST_FRAMES)
    shown = np.linspace(0, film.steps, count).round().astype(int).tolist()
    pictures = []
    for step in shown:
        picture = Image.new("RGB", (2 * SIDE, height), "white")
        picture.paste(scaled(film.frames[step], SIDE), (0, 0))
        picture.paste(goal, (SIDE, 0))
        for region, shaded in film.regions:
            draw_region(picture, region, shaded)
        draw = ImageDraw.Draw(picture)
        draw.line((SIDE, 0, SIDE, SIDE), fill="white", width=3)
        if step in film.surprises:
            draw.rectangle((0, 0, SIDE - 1, SIDE - 1), outline=ALARM, width=4)
        _progress(draw, film, step)
        if plans := [each for each in film.imagined if each.step <= step]:
            _strip(picture, plans[-1], step, tile, SIDE + BAR)
        if chart:
            chart.paste(picture, step)
        pictures.append(picture)
    return pictures


def scaled(frame: Array, side: int) -> Image.Image:
    """A frame ``[H, W, 3]`` as a square of `side` pixels."""
    return Image.fromarray(frame).resize((side, side), Image.Resampling.LANCZOS)


def tiled(images: Array) -> Array:
    """Images ``[N, H, W, 3]`` as one, in a square of as few as hold them all."""
    side = math.ceil(math.sqrt(len(images)))
    tiles = np.full((side * side, *images.shape[1:]), 255, np.uint8)
    tiles[: len(images)] = images
    rows = [np.concatenate(list(row), 1) for row in tiles.reshape(side, side, *images.shape[1:])]
    return np.concatenate(rows)


def _progress(draw: ImageDraw.ImageDraw, film: Film, step: int) -> None:
    """Draw the progress bar until `step`, with marks of interventions and surprises."""
    reached = film.first_success is not None and step >= film.first_success
    colour = (0, 158, 115) if reached else (120, 140, 180)
    draw.rectangle((0, SIDE, round(2 * SIDE * step / max(1, film.steps)), SIDE + 3), fill=colour)
    for marked, mark in ((film.interventions, WARNING), (film.surprises, ALARM)):
        for at in marked:
            if at < step:
                x = round(2 * SIDE * (at + 0.5) / max(1, film.steps))
                draw.rectangle((x - 1, SIDE, x + 1, SIDE + 6), fill=mark)
    text = f"step {step} of {film.steps}"
    if reached:
        text += f"; goal reached at step {film.first_success}"
    draw.text((6, SIDE + 8), text, fill=TEXT, font=FONT)
    font = FONT if FONT.getlength(film.label) < SIDE - 8 else ImageFont.load_default(size=10.5)
    draw.text((SIDE + 6, SIDE + 8), film.label, fill=TEXT, font=font)


def _strip(picture: Image.Image, plan: Imagination, step: int, tile: int, top: int) -> None:
    """Draw the frames that a plan imagines, with a border in the step in which it was made."""
    draw = ImageDraw.Draw(picture)
    if plan.feasible:
        draw.text((6, top), f"imagined by the plan of step {plan.step}", fill=TEXT, font=FONT)
    else:
        draw.text((6, top), "no feasible plan: the robot brakes", fill=WARNING, font=FONT)
    for k, frame in enumerate(plan.frames):
        x = k * tile
        picture.paste(scaled(frame, tile - 2), (x + 1, top + 19))
        when = f"+{plan.every * (k + 1)}"
        halo: Any = {"stroke_width": 2, "stroke_fill": "white"}  # readable on any ground
        draw.text((x + tile - 5, top + 20), when, fill=TEXT, font=FONT, anchor="ra", **halo)
        if plan.robot is not None:
            right, down = (np.clip(plan.robot[k], 0, 1) * (tile - 2)).tolist()
            right, down = x + 1 + right, top + 19 + down
            draw.ellipse((right - 4, down - 4, right + 4, down + 4), outline=WARNING)
    if step == plan.step:
        draw.rectangle((0, top + 18, len(plan.frames) * tile - 1, top + 16 + tile), outline=ALARM)


def guardrail_regions(env: gym.Env[Any, Any], rules: Sequence[Rule]) -> list[tuple[Array, bool]]:
    """The regions of guardrails and their margins, as polygons ``[n, 2]`` in fractions of the
    image, and whether to shade them. None of them where the task has no `in_image`."""
    in_image = task_of(env).in_image
    outlines = [
        (outline, shaded)
        for rule in rules
        for outline, shaded in (
            (rule.outline(), rule.kind == "no_go"),
            (rule.margin_outline(), False),
        )
        if outline is not None
    ]
    drawn = [(in_image(outline), shaded) for outline, shaded in outlines]
    return [(region, shaded) for region, shaded in drawn if region is not None]


def draw_region(picture: Image.Image, region: Array, shaded: bool) -> None:
    """Draw a polygon ``[n, 2]``, in fractions of the camera image, over that image."""
    half = picture.crop((0, 0, SIDE, SIDE))
    over = Image.new("RGBA", half.size, (0, 0, 0, 0))
    corners = [(float(x), float(y)) for x, y in SIDE * np.clip(region, -1, 2)]
    fill = f"{WARNING}46" if shaded else None
    ImageDraw.Draw(over).polygon(corners, fill=fill, outline=WARNING, width=2)
    picture.paste(Image.alpha_composite(half.convert("RGBA"), over).convert("RGB"), (0, 0))


def _draw_progress(axes: Any, film: Film) -> None:
    """Draw the latent distance to the goal, and the clearances of plans, over the steps."""
    axes.plot(*np.transpose(film.distances), "o-", ms=2.5, lw=1, color=ALARM)
    axes.set_ylabel("latent distance", fontsize=8, color=ALARM)
    axes.set_xlabel("step; grey: a new plan", fontsize=8)
    axes.set(xlim=(0, max(1, film.steps)), ylim=(0, None))
    for plan in film.imagined:
        axes.axvline(plan.step, color="#cccccc", lw=0.8, zorder=0)
    if film.clearances:
        right = axes.twinx()
        right.tick_params(labelsize=8)
        steps, clear = np.transpose(film.clearances)
        right.plot(steps, clear, "s--", ms=2.5, lw=1, color=WARNING)
        label = f"clearance, {film.unit}" if film.unit else "clearance"
        right.set_ylabel(label, fontsize=8, color=WARNING)
        right.axhline(0, color=WARNING, lw=0.6)
        right.set_ylim(min(0.0, float(clear.min())) - 0.002, None)


class Chart:
    """A chart as wide as the pictures of an animation; a line marks the moment of each picture.

    Args:
        draw: draws on the axes.
    """

    def __init__(self, draw: Callable[[Any], None]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2 * SIDE / 100, CHART / 100), dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        self.axes = figure.add_subplot()
        self.axes.tick_params(labelsize=8)
        draw(self.axes)
        canvas.draw()
        self.image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())

    def paste(self, picture: Image.Image, moment: float) -> None:
        """Paste it at the bottom of a picture, with a line at `moment` of the x axis."""
        top = picture.height - CHART
        picture.paste(self.image, (0, top))
        x = float(self.axes.transData.transform((moment, self.axes.get_ylim()[1]))[0])
        box = self.axes.get_window_extent()
        line = (x, top + CHART - box.y1, x, top + CHART - box.y0)
        ImageDraw.Draw(picture).line(line, fill=TEXT, width=1)


def as_gif(pictures: Sequence[Image.Image], fps: int = 10) -> bytes:
    """The GIF of an animation, which stays at its end for 1.5 s before it starts again."""
    buffer = io.BytesIO()
    durations = [1000 // fps] * len(pictures)
    durations[-1] = 1500
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0
    )
    return buffer.getvalue()


def as_png(figure: Figure, dpi: int = 120) -> bytes:
    """The PNG of a matplotlib figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def as_mp4(pictures: Sequence[Image.Image], fps: int = 10) -> bytes:
    """The MP4 of an animation."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.width, stream.height = (size - size % 2 for size in pictures[0].size)
        stream.pix_fmt = "yuv420p"  # what browsers play
        for picture in [*pictures, *[pictures[-1]] * fps]:
            file.mux(stream.encode(av.VideoFrame.from_image(picture)))
        file.mux(stream.encode())
    return buffer.getvalue()
