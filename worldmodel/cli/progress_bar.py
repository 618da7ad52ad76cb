"""Progress on a terminal and in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


class Progress(Generic[T]):
    """Progress on stderr: a tqdm bar on a terminal, a line about every ten seconds in a log.

    Iterate over it, or use it as a context manager and call ``update(n, loss=0.1)``; keyword
    figures are shown beside the count.
    """

    def __init__(
        self, iterable: Iterable[T] | None, total: float | None, description: str, unit: str
    ) -> None:
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)  # type: ignore[arg-type]
        self._iterable, self._total, self._count = iterable, total, 0.0
        self._description, self._unit, self._figures = description, unit, ""
        self._start = self._printed = time.monotonic()
        self._closed, self._lined_at = False, 0.0
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm  # type: ignore[import-untyped]

            minutes = unit == "min"  # shown with two digits, not as 1.44547990128
            self._bar = tqdm(
                total=total, desc=description, unit=unit, unit_scale=minutes, dynamic_ncols=True
            )

    def update(self, n: float = 1, **figures: object) -> None:
        """Count `n` more units done; `figures` (numbers or text) replace those shown before."""
        self._count += n
        if figures:
            shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in figures.items()}
            self._figures = "".join(f", {name} {value}" for name, value in shown.items())
        if self._bar is not None:
            if figures:
                self._bar.set_postfix_str(self._figures[2:], refresh=False)
            self._bar.update(n)
        elif time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._line()

    def close(self) -> None:
        """Print the last line; further calls do nothing."""
        if self._closed:
            return
        self._closed = True
        if self._bar is not None:
            self._bar.close()
        elif self._count and self._lined_at != self._count:
            self._line()

    def _line(self) -> None:
        self._printed, self._lined_at = time.monotonic(), self._count
        seconds = max(self._printed - self._start, 1e-9)
        if self._unit == "min":  # a rate of minutes says nothing
            done, unit, rate = f"{self._count:.1f}", " min", ""
        else:
            done, unit = f"{self._count:.12g}", ""
            rate = f", {self._count / seconds:.4g} {self._unit}/s"
        of_total, left = "", ""
        if self._total:
            of_total = f"/{self._total:g}{unit} ({100 * self._count / self._total:.0f} %)"
            if 0 < self._count < self._total:
                left = f", {seconds * (self._total - self._count) / self._count:.0f} s left"
        label = f"{self._description}: " if self._description else ""
        print(f"{label}{done}{of_total}{rate}{left}{self._figures}", file=sys.stderr, flush=True)

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self._iterable or ():
                yield item
                self.update()

    def __enter__(self) -> Progress[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def progress(
    iterable: Iterable[T] | None = None,
    total: float | None = None,
    description: str = "",
    unit: str = "it",
) -> Progress[T]:
    """Progress over `iterable`, or over `total` units counted with ``update``. See Progress."""
    return Progress(iterable, total, description, unit)
