"""The figures of a run: ``OUT/metrics.jsonl``, and the same for TensorBoard in ``OUT/tensorboard``.

TensorBoard shows a figure under its name in ``metrics.jsonl``, and a list of figures one by one, as
``val_error/1``, ``val_error/2``, ...
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from worldmodel.errors import UserError

METRICS, EVENTS = "metrics.jsonl", "tensorboard"
Array = NDArray[Any]
Figures = dict[str, Any]


class Metrics:
    """Open files of a run.

    Attributes:
        pictures_wanted: whether pictures are shown anywhere.
    """

    def __init__(self, lines: Any, events: Any) -> None:
        self._lines, self._events = lines, events
        self.pictures_wanted = events is not None

    def write(self, figures: Figures) -> None:
        """Write numbers and lists of numbers; ``step`` is among them."""
        self._lines.write(json.dumps(figures) + "\n")
        self._lines.flush()
        if self._events is None:
            return
        for name, value in figures.items():
            if isinstance(value, list):
                for depth, each in enumerate(value, 1):
                    self._events.add_scalar(f"{name}/{depth}", each, figures["step"])
            elif name != "step":
                self._events.add_scalar(name, value, figures["step"])
        self._events.flush()

    def show(self, pictures: Mapping[str, Array], step: int) -> None:
        """Write pictures, uint8 ``[H, W, 3]``, by name."""
        for name, picture in pictures.items():
            self._events.add_image(name, picture, step, dataformats="HWC")


@contextlib.contextmanager
def open_metrics(folder: Path, step: int, tensorboard: bool) -> Iterator[Metrics]:
    """Append to the files of a run, without what was written after `step`, the resumed one."""
    path = folder / METRICS
    lines = path.read_text().splitlines() if path.exists() and step > 0 else []
    current = [line for line in lines if line and json.loads(line)["step"] <= step]
    events: Any = None
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        events = SummaryWriter(str(folder / EVENTS), purge_step=step + 1)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in current)
        file.flush()
        with contextlib.closing(events) if events else contextlib.nullcontext():
            yield Metrics(file, events)


def check_tensorboard(wanted: bool) -> None:
    """Raise UserError where TensorBoard is wanted and missing."""
    if wanted and importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs tensorboard: pip install 'worldmodel[tensorboard]'")
