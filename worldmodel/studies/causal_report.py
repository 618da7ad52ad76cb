"""Table and plot of the causal study."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldmodel.measure.film import as_png
from worldmodel.measure.statistics import in_percent

STYLES = {  # Okabe and Ito's colours, safe for colour-blind readers
    "simulator": ("D--", "#000000"),
    "copied": ("--", "#666666"),
    "probe": ("o-", "#D55E00"),
    "means": ("s-", "#E69F00"),
    "probe and proprio": ("v-", "#CC79A7"),
    "random, as probe": ("o:", "#0072B2"),
    "random, as means": ("s:", "#56B4E9"),
}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown: all directions together with every edit, each direction alone with
    the edit by the probe."""
    rows = result["results"]
    depths = range(1, 1 + len(rows[0]["intended"]))
    head = [" | ".join(map(str, depths)) + " |", "---:|" * len(depths)]
    lines = [
        f"{result['checkpoint']}, positions edited by {result['shift']} m, "
        f"{result['held_out_episodes']} held-out episodes. Fraction of cases that move as "
        "intended, and median shift / intended shift, by model steps ahead:",
        "",
        f"| moved | edit | n | {head[0]}",
        f"|---|---|---:|{head[1]}",
    ]
    for row in rows:
        short = row["edit"] in ("simulator", "probe", "random, as probe")
        if row["edit"] != "copied" and (row["moved"] == "all" or short):
            cells = [
                f"{in_percent(rate)}, {median:+.2f}"
                for rate, median in zip(row["intended"], row["median_shift"], strict=True)
            ]
            lines.append(f"| {row['moved']} | {row['edit']} | {row['n']} | {' | '.join(cells)} |")
    lines += [""] + [
        f"R^2 of {name}, 0 to {len(scores) - 1} model steps ahead: "
        + ", ".join(f"{score:.3f}" for score in scores)
        for name, scores in result["r2"].items()
    ]
    lines += [
        "",
        "Fraction of cases that move as in the simulator, where it moves by a third of the "
        "intended shift or more:",
        "",
        f"| edit | {head[0]}",
        f"|---|{head[1]}",
    ]
    for row in rows:
        if row["moved"] == "all" and row["edit"] != "simulator":
            cells = ["-" if rate is None else in_percent(rate) for rate in row["agrees"]]
            lines.append(f"| {row['edit']} | {' | '.join(cells)} |")
    lines.append(f"| n | {' | '.join(map(str, rows[0]['agrees_n']))} |")
    return "\n".join(lines)


def intended_shift_table(result: dict[str, Any]) -> str:
    """Fraction of cases that move as intended, all directions together, as a Markdown table."""
    rows = [row for row in result["results"] if row["moved"] == "all" and row["edit"] != "copied"]
    depths = range(1, 1 + len(rows[0]["intended"]))
    lines = [
        f"| {result['checkpoint']}, edited by {result['shift']} m | cases "
        f"| {' | '.join(f'+{depth}' for depth in depths)} |",
        "|---|---:|" + "---|" * len(depths),
    ]
    for row in rows:
        cells = " | ".join(map(in_percent, row["intended"]))
        lines.append(f"| {row['edit']} | {row['n']} | {cells} |")
    return "\n".join(lines)


def draw(result: dict[str, Any]) -> bytes:
    """A PNG: how often, and how far, the future moves with the edit, by depth."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    intended, medians, agrees = figure.subplots(1, 3)
    rows = {row["edit"]: row for row in result["results"] if row["moved"] == "all"}
    for number, (edit, (style, colour)) in enumerate(STYLES.items()):
        if edit not in rows:
            continue
        row = rows[edit]
        depths = np.arange(1, 1 + len(row["intended"]))
        if edit == "copied":  # moves as intended by definition
            rates = [100 * rate["rate"] if rate else np.nan for rate in row["agrees"]]
            agrees.plot(depths, rates, style, color=colour, lw=1.2, label=edit)
            continue
        x = depths + 0.04 * (number - 2.5)
        _draw_rates(intended, x, row["intended"], style, colour)
        if edit != "simulator":
            _draw_rates(agrees, x, row["agrees"], style, colour)
        medians.plot(x, row["median_shift"], style, color=colour, ms=4, lw=1.2, label=edit)
    for panel, title in (
        (intended, "cases that move as intended, %"),
        (medians, "median shift / intended shift"),
        (agrees, "cases that move as in the simulator, %"),
    ):
        panel.set_title(title, fontsize=10)
        panel.grid(alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_xlabel("model steps ahead")
    for panel in (intended, agrees):
        panel.axhline(50, color="#666666", lw=0.8)
        panel.set_ylim(0, 103)
    figure.legend(
        loc="outside upper center", ncols=len(STYLES), columnspacing=1.2, frameon=False, fontsize=9
    )
    return as_png(figure)


def _draw_rates(panel: Any, x: np.ndarray, rates: list[Any], style: str, colour: str) -> None:
    """Rates in per cent with their intervals; None is left out."""
    known = [i for i, rate in enumerate(rates) if rate is not None]
    rate, low, high = (
        np.array([100 * rates[i][key] for i in known]) for key in ("rate", "low", "high")
    )
    bars = [rate - low, high - rate]
    panel.errorbar(x[known], rate, bars, fmt=style, color=colour, ms=4, lw=1.2)
