"""Plots as SVG."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from worldmodel.measure.film import ALARM as BLUE
from worldmodel.measure.film import WARNING as VERMILION

__all__ = ["BLUE", "STYLES", "VERMILION", "plot_label", "svg"]

# Okabe and Ito's colours, safe for colour-blind readers, and markers.
STYLES = ((VERMILION, "o"), (BLUE, "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"))
RC: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.08,
    "svg.hashsalt": "worldmodel",  # equal plots give equal files
}


def svg(width: float, height: float, draw: Callable[[Any], None]) -> bytes:
    """An SVG of `width` x `height` inches; `draw` draws on its matplotlib Figure."""
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    return text[text.index("<svg") :].encode()  # without the URL of a document type


def plot_label(name: object) -> str:
    """A name as a label: only the end of a long one, and dollars that start no formula."""
    text = str(name)
    text = text if len(text) <= 60 else f"... {text[-56:]}"
    return text.replace("$", r"\$")
