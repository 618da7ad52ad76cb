"""Section: training curves and the last validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldmodel.studies.report.blocks import Missing, Picture, ReportBlock, Table
from worldmodel.studies.report.plots import BLUE, VERMILION, svg
from worldmodel.studies.report.sources import parse_json, read_text

ERRORS = {
    "val_error": "imagined latents",
    "val_copy": "copying the last frame",
    "val_proprio": "imagined proprioception",
}
TITLES = (
    "loss",
    "errors in training",
    "held-out error, steps ahead",
    "held-out error at the end",
    "learning rate",
    "samples per second",
)


def training_section(path: Path, command: str) -> list[ReportBlock]:
    """Curves of metrics.jsonl and a table of the last validation; `command` trains."""
    if not path.exists():
        return [Missing("This checkpoint has no metrics.jsonl, so there are no curves.", [command])]
    lines = enumerate(read_text(path).splitlines(), 1)
    rows = [parse_json(line, f"line {n} of {path}") for n, line in lines if line.strip()]
    if not rows:
        return [Missing("metrics.jsonl is empty: no step was trained yet.", [command])]
    curves = Picture(
        "image/svg+xml",
        svg(10, 5.6, lambda figure: draw_training(figure, rows)),
        "Six plots: loss, errors in training, held-out error over steps and by depth, learning "
        "rate and speed",
        f"Training to step {rows[-1]['step']}. Errors of latents are fractions of their variance, "
        "errors of proprioception of its variance; copied: the last frame is the prediction.",
    )
    last = next((row for row in reversed(rows) if "val_error" in row), None)
    if last is None:
        return [curves, Missing("There is no validation yet: it comes every validate_every steps.")]
    errors = [[name, *(f"{e:.4f}" for e in last[k])] for k, name in ERRORS.items() if k in last]
    head = ["", *map(str, range(1, len(last["val_error"]) + 1))]
    caption = f"Held-out error at step {last['step']} by model steps ahead"
    return [curves, Table(caption, head, errors)]


def draw_training(figure: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Six panels."""
    axes = figure.subplots(2, 3).ravel()

    def line(panel: int, key: str, depth: int = 0, **style: Any) -> None:
        points = [(row["step"], row[key]) for row in rows if key in row]
        values = [float(y[depth] if isinstance(y, list) else y) for _, y in points]
        axes[panel].plot([float(x) for x, _ in points], values, **style)

    line(0, "loss", color=VERMILION)
    line(1, "predict", color=VERMILION, label="latents")
    line(1, "proprio", color=BLUE, ls="--", label="proprio")
    _draw_validation(axes, line, [row for row in rows if "val_error" in row])
    line(4, "lr", color=VERMILION)
    line(5, "samples_per_s", color=VERMILION)
    for number, (panel, title) in enumerate(zip(axes, TITLES, strict=True)):
        panel.set(title=title, xlabel="model steps ahead" if number == 3 else "step")
        values = [y for curve in panel.lines for y in curve.get_ydata() if math.isfinite(y)]
        if number < 3 and values and min(values) > 0:
            panel.set_yscale("log")
            low, high = panel.get_ylim()
            panel.set_ylim(top=high * (high / low) ** (0.4 if number == 2 else 0))  # for the legend
        elif values:
            panel.set_ylim(bottom=min(0, *values))
        if number in (1, 2, 3) and values:
            panel.legend(fontsize=8, ncols=2 if number == 2 else 1)


def _draw_validation(axes: Any, line: Any, validations: list[dict[str, Any]]) -> None:
    """Held-out errors over steps at the first and the last depth, and by depth at the end."""
    if not validations:
        return
    last = validations[-1]
    deepest = len(last["val_error"])
    for depth, marker in {1: "o", deepest: "s"}.items():
        for key, name, colour, dash in (
            ("val_error", "imagined", VERMILION, "-"),
            ("val_copy", "copied", BLUE, "--"),
        ):
            style = {"color": colour, "ls": dash, "marker": marker, "ms": 3}
            line(2, key, depth - 1, label=f"{name}, {depth}", **style)
    depths = range(1, deepest + 1)
    axes[3].plot(depths, last["val_error"], "o-", ms=4, color=VERMILION, label="imagined")
    axes[3].plot(depths, last["val_copy"], "s--", ms=4, color=BLUE, label="copied")
    axes[3].set_xticks(depths)
