"""Settings of the benchmark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import planners
from worldmodel.errors import UserError

PARTS = ("plan", "encode", "train", "collect", "cold")


@dataclass(frozen=True)
class BenchConfig:
    """What to time."""

    checkpoint: str = "pusht"
    """Bundled name, folder or hf:USER/NAME."""
    out: Path = Path("out/bench.json")
    """JSON file for the result; the plot of --scale is a PNG beside it."""
    only: str = ",".join(PARTS)
    """Parts to time, separated by commas."""
    planners: str = ",".join(planners.PLANNERS)
    """Planners to time, separated by commas."""
    plans: int = 20
    """Timed calls of each kind, after the warm-up."""
    seconds: float = 30.0
    """Time limit of a row; fewer calls are timed then, at least one."""
    samples: int = 300
    """Second size of plans: candidates per iteration."""
    iterations: int = 10
    """Second size of plans: iterations."""
    horizon: int = 5
    """Second size of plans: model steps."""
    episodes: tuple[int, ...] = (1, 50)
    """Numbers of episodes planned at once, as --episodes [1,8]."""
    threads: int | None = None
    """Threads of PyTorch; default: its own choice."""
    device: str = "cpu"
    """auto, cpu, cuda or mps. Collection and the cold start are the same on all of them."""
    scale: bool = False
    """Also time plans of growing samples, horizon, episodes, width and tokens."""

    def __post_init__(self) -> None:
        for name in ("plans", "iterations", "horizon", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: it must be at least 1")
        if self.samples < 4:
            raise UserError(f"samples is {self.samples}: cmaes needs at least 4")
        if not 0 < self.seconds < math.inf:
            raise UserError(f"seconds is {self.seconds}: it must be a number above 0")
        if not self.episodes or min(self.episodes) < 1:
            raise UserError(f"episodes is {list(self.episodes)}: give numbers of at least 1")
        for name, known in (("only", PARTS), ("planners", tuple(planners.PLANNERS))):
            unknown = set(getattr(self, name).split(",")) - set(known)
            if unknown:
                raise UserError(
                    f"{name} names {min(unknown)!r}: use some of {', '.join(known)}, separated by "
                    "commas"
                )
