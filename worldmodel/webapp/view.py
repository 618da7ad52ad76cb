"""Pictures and texts of the page, made from a session: PNG, SVG, charts, tables. No widgets."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from worldmodel.measure.episode import EpisodeLog
from worldmodel.measure.film import ALARM as BLUE
from worldmodel.measure.film import WARNING as VERMILION
from worldmodel.webapp.session import Session

Array = NDArray[Any]
OUTLINE = f"stroke: {VERMILION}; stroke-width: 2"
REGION = f"{OUTLINE}; fill: {VERMILION}; fill-opacity: 0.28"
MARGIN = f"{OUTLINE}; stroke-dasharray: 5 4; fill: none"
HALO = "stroke: white; stroke-width: 6; fill: none"
PATH = f"stroke: {BLUE}; stroke-width: 3; fill: none"
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


def data_url(pixels: Array) -> str:
    """An image ``[H, W, 3]`` as a PNG in a data URL."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def svg_shape(shape: str, places: ArrayLike, side: int, style: str) -> str:
    """An SVG polygon or polyline through places ``[n, 2]`` in an image of `side` pixels."""
    corners = " ".join(f"{x:.2f},{y:.2f}" for x, y in side * np.clip(places, -1, 2))
    return f'<{shape} points="{corners}" style="vector-effect: non-scaling-stroke; {style}"/>'


def overlay(session: Session, corners: Sequence[Array] = ()) -> str:
    """The SVG over reality: regions, the imagined path, and the rectangle between two `corners`
    that the user is drawing."""
    side = session.info.image_size
    shapes = [
        svg_shape("polygon", region, side, REGION if shaded else MARGIN)
        for region, shaded in session.regions()
    ]
    if session.path is not None:
        shapes += [svg_shape("polyline", session.path, side, style) for style in (HALO, PATH)]
    if len(corners) == 2:
        (left, top), (right, bottom) = corners
        rectangle = [(left, top), (right, top), (right, bottom), (left, bottom)]
        shapes.append(svg_shape("polygon", rectangle, side, REGION))
    return "".join(shapes)


def chart_options(log: EpisodeLog) -> dict[str, Any]:
    """ECharts options: latent distance over steps, and steps with a guardrail intervention."""
    line = [list(pair) for pair in zip(log.distance_steps, log.distances, strict=False)]
    mark = {"type": "scatter", "symbol": "triangle", "color": VERMILION}
    axis = {"type": "value", "min": 0, "nameLocation": "middle"}
    marks = [[step, 0] for step in log.interventions]
    return {
        "animation": False,
        "grid": {"left": 58, "right": 12, "top": 28, "bottom": 40},
        "legend": {"top": 0},
        "xAxis": {**axis, "name": "step", "nameGap": 24, "minInterval": 1, "max": "dataMax"},
        "yAxis": {**axis, "name": "squared distance", "nameGap": 42},
        "series": [
            {"name": "latent distance to the goal", "type": "line", "data": line, "color": BLUE},
            {"name": "guardrail intervention", **mark, "data": marks},
        ],
    }


def status_table(session: Session, steps: int, running: bool) -> str:
    """An HTML table of what the agent does. `steps`: of the run."""
    log, agent = session.log, session.agent
    doing = "ready" if agent is None else "acting" if running else "done"
    if agent is not None and agent.stop_reason:
        doing = f"<b>stopped: {agent.stop_reason}</b>"
    plan = "none yet"
    if log.plan_ms:
        plan = f"made at step {log.plan_steps[-1]}, in {log.plan_ms[-1]:.0f} ms"
    guardrails = f"{len(session.guardrails)} region(s)"
    if acted := log.interventions:
        guardrails += f"; <b>intervened in {len(acted)} step(s), last in step {acted[-1]}</b>"
    rows = {
        "Step": f"{session.steps} of {steps}",
        "Agent": doing,
        "Plan": plan,
        "Guardrails": guardrails,
        "Success": session.outcome(),
    }
    lines = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in rows.items())
    return f"<table>{lines}</table>"


def imagination_text(session: Session) -> str:
    """The line above the predicted frames."""
    if session.decoder is None:
        return (
            "This checkpoint has no decoder, so predicted latents cannot be shown as images. "
            "The blue line over reality is the plan."
        )
    if session.imagined is None:
        return "Press Plan to see the frames that the model predicts for its plan."
    step = session.log.plan_steps[-1]
    return f"Predicted frames of the plan made at step {step}. The framed one comes next."


def imagined_frames(session: Session) -> str:
    """HTML of the predicted frames, side by side; the next one is framed."""
    if session.imagined is None or session.agent is None:
        return ""
    first, frameskip = session.log.plan_steps[-1], session.agent.frameskip
    figures = [
        f'<figure class="{"now" if index == session.next_imagined else ""}">'
        f'<img src="{data_url(frame)}">'
        f"<figcaption>step {first + frameskip * (index + 1)}</figcaption></figure>"
        for index, frame in enumerate(session.imagined)
    ]
    return f'<div class="frames">{"".join(figures)}</div>'
