"""Table and plot of the benchmark."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldmodel.measure.film import ALARM, WARNING, as_png
from worldmodel.studies.bench_scale import SCALE_ITERATIONS


def draw(result: dict[str, Any]) -> bytes | None:
    """A PNG: milliseconds of a plan against each quantity that grows, on log axes; None without
    --scale."""
    if not result["scale"]:
        return None
    from matplotlib.figure import Figure

    scale = result["scale"]
    figure = Figure(figsize=(3 * len(scale), 3.2), layout="constrained")
    for axes, (name, found) in zip(
        figure.subplots(1, len(scale), sharey=True), scale.items(), strict=True
    ):
        values = np.array(found["values"], float)
        fitted = np.exp(found["constant"]) * values ** found["exponent"]
        axes.loglog(values, found["ms"], "o", color=ALARM, label="median")
        label = f"{name}$^{{{found['exponent']:.2f}}}$"
        axes.loglog(values, fitted, "--", color=WARNING, label=label)
        axes.set(xlabel=name, xticks=values)
        axes.set_xticks([], minor=True)
        axes.set_xticklabels([f"{value:g}" for value in values])
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left")
    own = "else {samples} samples, horizon {horizon}, 1 episode".format(**result["own"])
    figure.suptitle(f"{result['checkpoint']} on {result['machine']['cpu']}; {own}", fontsize=10)
    figure.axes[0].set_ylabel(f"ms for a plan of {SCALE_ITERATIONS} iterations")
    return as_png(figure, 150)


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    m, top = result["machine"], result["ceiling"]
    lines = [
        f"{result['checkpoint']}, {result['parameters'] / 1e6:.2f} M parameters, on {m['cpu']}: "
        f"{m['cores']} cores, threads: {m['threads']}, PyTorch {m['torch']}, {m['capability']}, "
        f"instructions for bfloat16: {', '.join(m['bfloat16']) or 'none'}; ceiling "
        f"{top['gflops']:.0f} GFLOP/s in bfloat16; peak memory of this run "
        f"{result['peak_mb']:.0f} MB",
        "",
    ]
    if m["load"] > 0.5:
        lines += [
            f"The machine was busy before the benchmark (load {m['load']}): times are too long.",
            "",
        ]
    lines += [
        "| | calls | p50 ms | p99 ms | | GFLOP | GFLOP/s | of the ceiling | of its shape |",
        "|---|" + "---:|" * 8,
    ]

    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f} %"

    for row in result["rows"]:
        work = ("", "") if row["gflops"] is None else (row["operations"] / 1e9, row["gflops"])
        cells = [row["name"], row["calls"], f"{row['ms_p50']:.1f}", f"{row['ms_p99']:.1f}"]
        cells += [f"{row['value']:.4g} {row['unit']}", *(f"{x:.4g}" if x else "" for x in work)]
        cells += [percent(row["of_ceiling"]), percent(row["of_shape"])]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for name, found in result["scale"].items():
        values, ms = found["values"], found["ms"]
        name = f"scale, {name} {values[0]} to {values[-1]}"
        growth = f"{ms[0]:.1f} to {ms[-1]:.1f} ms, exponent {found['exponent']:.2f}"
        lines.append(f"| {name} | | | | {growth} | | | | |")
    return "\n".join(lines)
