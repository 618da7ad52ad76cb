"""The parts of a study, as the command line runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        config: frozen dataclass of its flags; ``out`` is the JSON file for the result.
        run: the experiment: config to result, which can be written as JSON.
        table: the result as Markdown.
        draw: the result as a PNG, or None where there is nothing to draw.
    """

    config: type[Any]
    run: Callable[[Any], Result]
    table: Callable[[Result], str]
    draw: Callable[[Result], bytes | None] = lambda result: None
