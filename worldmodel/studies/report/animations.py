"""Section: animations of episodes, with what is known about them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from worldmodel.errors import UserError
from worldmodel.measure.outcomes import outcome_text
from worldmodel.studies.report.blocks import (
    Gallery,
    Heading,
    Missing,
    Paragraph,
    Picture,
    ReportBlock,
)
from worldmodel.studies.report.sources import read_result, read_text, written_by

TITLES = {True: "Goal reached", False: "Goal not reached", None: "Not known whether reached"}


class GifCaption(NamedTuple):
    """Text about an animation, and whether its episode reached the goal, where that is known."""

    text: str = ""
    reached: bool | None = None


def animation_section(folders: Sequence[Path], *commands: str) -> list[ReportBlock]:
    """All GIFs of the folders, successes first; the commands make such folders.

    Raises:
        UserError: a folder has none, or one is damaged.
    """
    if not folders:
        return [Missing("No folder of animations was given (--gifs folder).", commands)]
    groups: dict[bool | None, list[Picture]] = {reached: [] for reached in TITLES}
    for folder in folders:
        paths = sorted(folder.glob("*.gif"))
        if not paths:
            raise UserError(f"--gifs {folder}: there is no .gif in it; `plan` writes such a folder")
        captions = read_captions(folder)
        for path in paths:
            name = f"{folder.name}/{path.name}"
            text, reached = captions.get(path.name, GifCaption())
            alt = f"Animation {name}: camera images beside the goal"
            caption = f"{name}: {text}" if text else name
            groups[reached].append(Picture("image/gif", read_gif(path), alt, caption))
    text = "Two numbers are an error at the start > at the end of the episode."
    blocks: list[ReportBlock] = [Paragraph(text)]
    for reached, pictures in groups.items():
        if pictures:
            blocks.append(Heading(f"{TITLES[reached]} ({len(pictures)})"))
            blocks.append(Gallery(pictures))
    return blocks


def read_gif(path: Path) -> bytes:
    """The content of a GIF whose frames can all be shown.

    Raises:
        UserError: it is damaged, or no GIF.
    """
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=("GIF",)) as image:
            for frame in range(getattr(image, "n_frames", 1)):
                image.seek(frame)
                image.load()
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is no GIF, or damaged ({error}): make it again") from None
    return content


def read_captions(folder: Path) -> dict[str, GifCaption]:
    """Captions by file name, from README.md of `evaluate --failures` and report.json of `plan`."""
    captions: dict[str, GifCaption] = {}
    gallery, plan = folder / "README.md", folder / "report.json"
    names: list[str] = []
    for line in read_text(gallery).splitlines() if gallery.exists() else ():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if line.startswith("| | episode | seed | success |"):
            names = cells
        elif names and (image := re.fullmatch(r"!\[.*\]\(([^()]+)\)", cells[0])):
            values = dict(zip(names, cells[1:], strict=False))
            text = "; ".join(f"{name} {cell}" for name, cell in values.items())
            captions[image[1]] = GifCaption(text, values.get("success") != "never")
    if plan.exists():
        with written_by("plan", str(plan)):
            captions["plan.gif"] = plan_caption(read_result(plan))
    return captions


def plan_caption(result: dict[str, Any]) -> GifCaption:
    """The outcome of an episode of `plan`."""
    outcome, steps = result["outcome"] or {}, result["steps"]
    reached = outcome.get("success_any")
    if reached is None:
        text = f"{steps} steps, without a goal state to compare with"
    else:
        text = outcome_text(outcome, steps)
    for key, what in (("interventions", "interventions"), ("surprises", "surprises")):
        text += f"; {what} at {len(result[key])} steps" if result.get(key) else ""
    text += f"; held at times ({result['stop_reason']})" if result["stop_reason"] else ""
    return GifCaption(
        f"{result['goal']}, {result['planner']}, seed {result['seed']}: {text}", reached
    )
