"""Tables and plots of the results of probes."""

from __future__ import annotations

import itertools
import math
from typing import Any

from worldmodel.measure.film import as_png


def table(result: dict[str, Any]) -> str:
    """The result as Markdown tables: R^2, and mean absolute errors."""
    rows = result["results"]

    def lines(title: str, key: str, digits: int, last: str = "") -> list[str]:
        columns = list(rows[0][key])
        ending = [last] if last else []
        found = [
            f"| {title} | probe | " + " | ".join(columns + ending) + " |",
            "|---|---|" + "---:|" * len(columns + ending),
        ]
        for row in rows:
            cells = [f"{row[key][name]:.{digits}f}" for name in columns]
            cells += [f"{row['mean_r2']:.3f}"] if last else []
            found.append(f"| {row['encoder']} | {row['probe']} | " + " | ".join(cells) + " |")
        return found

    return "\n".join(
        [*lines("encoder", "r2", 3, "mean"), "", *lines("mean error", "mean_error", 4)]
    )


def distance_table(results: list[dict[str, Any]]) -> str:
    """Rank correlations of distances, of all checkpoints in all results, as a Markdown table."""
    lines = [
        "| data | model | elapsed steps: latents | tokens | task's distance: latents | tokens |",
        "|---|---|---:|---:|---:|---:|",
    ]
    columns = list(itertools.product(("elapsed", "task"), ("latents", "tokens")))
    for result in results:
        for name, found in result["distances"].items():
            values = [found[kind].get(truth) for truth, kind in columns]
            cells = ["-" if value is None else f"{value:.2f}" for value in values]
            lines.append(f"| `{result['data']}` | `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def linear_probe_table(result: dict[str, Any]) -> str:
    """R^2 of linear probes, and of attention probes of tokens, as a Markdown table."""
    shown = {("encoder", "ridge"), ("encoder", "attention"), ("latents", "ridge")}
    shown |= {("imagined", "ridge"), ("looks", "ridge"), ("looks", "attention")}
    rows = [row for row in result["results"] if (row["kind"], row["probe"]) in shown]
    names = list(rows[0]["r2"])
    lines = [f"| | probe | {' | '.join(names)} |", "|---|---|" + "---:|" * len(names)]
    for row in rows:
        cells = " | ".join(f"{row['r2'][name]:.3f}" for name in names)
        lines.append(f"| {row['encoder']} | {row['probe']} | {cells} |")
    return "\n".join(lines)


# Okabe and Ito's colours, safe for colour-blind readers.
STYLES = {
    "ridge": ("o-", "#0072B2"),
    "MLP": ("s-", "#D55E00"),
    "ridge of latents": ("^--", "#009E73"),
}


def draw(result: dict[str, Any], source: str, kind: str) -> bytes:
    """A PNG: R^2 of a checkpoint's rows of one kind, "imagined" or "layer", one target a panel."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = [row for row in result["results"] if row["source"] == source and row["kind"] == kind]
    names = list(rows[0]["r2"])
    across = min(3, len(names))
    down = math.ceil(len(names) / across)
    figure = Figure(figsize=(1 + 2.6 * across, 0.9 + 2 * down), layout="constrained")
    panels = list(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)
    for panel, name in zip(panels, names, strict=False):
        for probe, (style, colour) in STYLES.items():
            shown = [(row["at"], row["r2"][name]) for row in rows if row["probe"] == probe]
            if shown:
                at, score = zip(*shown, strict=True)
                panel.plot(at, score, style, color=colour, ms=4, lw=1.2, label=probe)
        panel.set_title(name, fontsize=10)
        panel.grid(alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    lowest = min(min(row["r2"].values()) for row in rows)
    panels[0].set_ylim(max(-0.1, lowest - 0.15 * (1.02 - lowest)), 1 + 0.05 * (1.02 - lowest))
    what = {"imagined": "model steps ahead", "layer": "layer of the predictor; 0: what it is given"}
    figure.supxlabel(what[kind], fontsize=10)
    figure.supylabel("R² on held-out episodes", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return as_png(figure)
