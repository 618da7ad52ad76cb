"""Section: usual prediction errors, and detection of disturbances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldmodel.control.surprise import ERROR_NAMES
from worldmodel.models.checkpoint import CheckpointInfo
from worldmodel.studies.report.blocks import Missing, Paragraph, Picture, ReportBlock, Table
from worldmodel.studies.report.plots import STYLES, svg
from worldmodel.studies.report.sources import check_env, read_result
from worldmodel.studies.report.success import percent


def usual_error_blocks(found: dict[str, Any], command: str) -> list[ReportBlock]:
    """Plot and table of the quantiles of prediction errors; `command` measures them."""
    if not found:
        return [Missing("This checkpoint does not store usual prediction errors.", [command])]
    levels, limits = found["levels"], found["limits"]
    p_values = [min(1.0, len(ERROR_NAMES) * level) for level in levels]  # Bonferroni

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for name, (colour, marker) in zip(ERROR_NAMES, STYLES, strict=False):
            axes.loglog(p_values, limits[name], marker + "-", color=colour, ms=4, label=name)
        axes.invert_xaxis()
        axes.set(xlabel="p-value of a step with a larger error", ylabel="squared error")
        axes.legend()

    rows = []
    for number, (level, p_value) in enumerate(zip(levels, p_values, strict=True)):
        errors = (f"{limits[name][number]:.4g}" for name in ERROR_NAMES)
        rows.append([f"{p_value:.3g}", f"{100 * level:.3g}", *errors])
    plot = Picture(
        "image/svg+xml",
        svg(7, 3.2, draw),
        "Error against p-value for each kind of error; the table has the numbers",
        "Squared errors of predictions one model step ahead, in units of the model's distance, and "
        "of the variance of proprioception.",
    )
    head = ("p-value", "% of usual steps with more", *ERROR_NAMES)
    return [plot, Table("Usual prediction errors", head, rows, text=0)]


def disturbance_blocks(path: Path | None, info: CheckpointInfo, command: str) -> list[ReportBlock]:
    """The result of the study ``disturbances``; `command` runs it."""
    if path is None:
        return [Missing("No study of disturbances was given (--disturbances FILE).", [command])]
    found = read_result(path)
    check_env(info, found, path)
    rows = []
    for name, each in found["disturbances"].items():
        delay = "" if each["delay"] is None else f"{each['delay']:g}"
        auroc, detected = f"{each['auroc']:.3f}", percent(each["detected"])
        rows.append([name, each["episodes"], auroc, detected, delay])
    alarms = found["false_alarms"]
    text = (
        f"False alarms: {percent(alarms['per_step'])} of undisturbed steps, "
        f"{percent(alarms['per_episode'])} of {found['episodes']} episodes of {found['steps']} "
        f"steps. Policy {found['policy']}, seed {found['seed']}."
    )
    caption = f"Disturbances, from {path.name}; an alarm is p < {found['alarm']:g}"
    detected = f"detected within {found['window']} steps"
    head = ("", "episodes", "AUROC", detected, "median delay, steps")
    return [Table(caption, head, rows), Paragraph(text)]
