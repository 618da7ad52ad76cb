"""Section: what probes read from latents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldmodel.studies.report.blocks import Missing, Picture, ReportBlock, Table
from worldmodel.studies.report.plots import BLUE, STYLES, VERMILION, plot_label, svg
from worldmodel.studies.report.sources import read_result

LOWEST = -0.5  # R^2 in the plot: lower ones are all useless
FOLD = 24  # rows


def probe_blocks(path: Path | None, command: str) -> list[ReportBlock]:
    """Plot and tables of a result of ``probe --out``; `command` makes one."""
    if path is None:
        return [Missing("No result of probes was given (--probe probe.json).", [command])]
    rows = read_result(path)["results"]
    if not rows:
        raise ValueError("its results are empty")
    lines = len({row["encoder"] for row in rows})
    blocks: list[ReportBlock] = [
        Picture(
            "image/svg+xml",
            svg(9, 1.1 + 0.24 * lines, lambda figure: draw_probes(figure, rows)),
            "R^2 of each probe; the table has the numbers",
            "R^2 on held-out episodes: the mean over targets, and a stroke for each target. 1 is "
            "perfect, 0 no better than the mean of the target.",
        )
    ]
    for key, title, digits in (("r2", "R^2", 3), ("mean_error", "Mean absolute error", 4)):
        some = [row for row in rows if isinstance(row.get(key), dict)]
        names = list(dict.fromkeys(name for row in some for name in row[key]))
        columns = [*names, "mean"] if key == "r2" else names  # errors differ in units
        cells = []
        for row in some:
            values = {**row[key], "mean": sum(row[key].values()) / len(row[key])}
            numbers = [f"{values[n]:.{digits}f}" if n in values else "" for n in columns]
            cells.append([row["encoder"], row["probe"], *numbers])
        if cells:
            caption = f"{title} on held-out episodes, from {path.name}"
            blocks.append(Table(caption, ["features", "probe", *columns], cells, 2, FOLD))
    return blocks


def draw_probes(figure: Any, rows: Sequence[dict[str, Any]]) -> None:
    """A line for each kind of features, a colour for each kind of probe."""
    axes = figure.subplots()
    names = list(dict.fromkeys(row["encoder"] for row in rows))
    kinds = list(dict.fromkeys(row["probe"] for row in rows))
    for number, kind in enumerate(kinds):
        colour, marker = STYLES[number % len(STYLES)]
        points = []
        for row in rows:
            if row["probe"] == kind:
                r2 = [max(LOWEST, value) for value in row["r2"].values()]
                height = names.index(row["encoder"]) + 0.5 * ((number + 0.5) / len(kinds) - 0.5)
                axes.plot(r2, [height] * len(r2), "|-", color=colour, lw=0.5, ms=5)
                points.append((sum(r2) / len(r2), height))
        label = plot_label(kind)
        axes.plot(*zip(*points, strict=True), marker, color=colour, ms=4.5, label=label)
    axes.axvline(0, color="#666666", lw=0.8)
    axes.set_yticks(range(len(names)), [plot_label(name) for name in names])
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel=f"R^2; lower ones are shown as {LOWEST}")
    figure.legend(loc="outside upper right", ncols=len(kinds))


def stored_probe_blocks(probe: dict[str, Any], command: str) -> list[ReportBlock]:
    """Errors by depth of the probe stored with the checkpoint; `command` stores one."""
    if not probe:
        return [Missing("This checkpoint has no stored probe.", [command])]
    means, highs, names = probe["errors"]["mean"], probe["errors"]["p95"], probe["names"]
    depths = range(len(means[names[0]]))
    lines = -(-len(names) // 3)

    def draw(figure: Any) -> None:
        axes = figure.subplots(lines, 3, squeeze=False).ravel()
        for name, panel in zip(names, axes, strict=False):
            panel.plot(depths, means[name], "o-", ms=3, color=VERMILION, label="mean")
            panel.plot(depths, highs[name], "s--", ms=3, color=BLUE, label="95 %")
            panel.set(title=plot_label(name), ylim=(0, None), xticks=depths)
        for panel in axes[len(names) :]:
            panel.set_visible(False)
        axes[0].legend()
        figure.supxlabel("model steps ahead", fontsize=9)

    rows = []
    for name in names:
        errors = zip(means[name], highs[name], strict=True)
        rows.append([name, *(f"{mean:.4f} ({high:.4f})" for mean, high in errors)])
    clips = ", ".join(map(str, probe["clips"]))
    plot = Picture(
        "image/svg+xml",
        svg(9, 0.4 + 1.9 * lines, draw),
        "Error of the probe by depth, a plot for each target; the table has the numbers",
        f"Absolute error of the linear probe that guardrails use, fitted to {probe['data']}; clips "
        f"for training, validation and test: {clips}.",
    )
    caption = "Its absolute error by model steps ahead, in SI units: mean (95 %)"
    return [plot, Table(caption, ["", *map(str, depths)], rows)]
