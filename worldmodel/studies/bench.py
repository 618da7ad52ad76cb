"""Speed, and its share of the machine's ceiling.

    python -m worldmodel.studies bench --checkpoint pusht --out bench.json

Parts (``--only plan,train``):

    plan      one plan of every planner, for 1 and 50 episodes at once: with the checkpoint's
              samples x iterations x horizon (the gradient planner has its own), and 300 x 10 x 5
    encode    images to tokens
    train     one optimiser step of `worldmodel.train` on random latents, drawing of clips included
    collect   one recorded and written episode, in one process
    cold      a new process until its first action

``python -m worldmodel.evaluate --batch 1`` times decisions of an acting robot. The benchmark takes
about ten minutes. The 99th percentile of few calls is little more than their maximum; the table
shows the number of calls. Operations are those of matrix products, counted by PyTorch. The ceiling
is the fastest matrix product in bfloat16 in the same run. Small matrices cannot reach it, so the
last column compares with a product of the work's own shape. ``--scale true`` also times plans of
growing size, and fits exponents.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import planners
from worldmodel.cli import Progress, progress
from worldmodel.cli.device import pick_device
from worldmodel.errors import UserError
from worldmodel.measure.provenance import cpu_model
from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.studies import clock
from worldmodel.studies.bench_parts import PARTS
from worldmodel.studies.bench_report import draw, table
from worldmodel.studies.bench_scale import bench_scale
from worldmodel.studies.study import Study


@dataclass(frozen=True)
class BenchConfig:
    """What to time."""

    checkpoint: str = "pusht"
    """Bundled name or folder."""
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
        for name, known in (("only", tuple(PARTS)), ("planners", tuple(planners.PLANNERS))):
            unknown = set(getattr(self, name).split(",")) - set(known)
            if unknown:
                raise UserError(
                    f"{name} names {min(unknown)!r}: use some of {', '.join(known)}, separated by "
                    "commas"
                )


def bench(config: BenchConfig) -> dict[str, Any]:
    """Run the benchmark.

    Raises:
        UserError: the checkpoint cannot be loaded, its environment cannot be made, or the machine
            does not have the device.
    """
    device = pick_device(config.device)
    model, encoder, info = load_checkpoint(config.checkpoint)
    loaded = model.to(device), encoder.to(device), info
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    machine = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": str(device),
        **clock.processor(),
    }
    sizes = clock.ceiling(str(device))
    top = max(sizes.values())
    rows = []
    bar: Progress[Any]
    with progress(None, description="bench", unit="row") as bar:
        for part in [part for part in PARTS if part in config.only.split(",")]:
            for row in PARTS[part](config, loaded):
                rows.append(row.report(top, str(device)))
                bar.update(1, row=row.name)
    return {
        "checkpoint": config.checkpoint,
        "parameters": sum(p.numel() for p in model.parameters()),
        "machine": machine,
        "ceiling": {"gflops": top, "sizes": sizes},
        "own": {name: getattr(info, name) for name in ("samples", "iterations", "horizon")},
        "rows": rows,
        "scale": bench_scale(config, loaded) if config.scale else {},
        "peak_mb": clock.peak_mb(),
        "settings": {
            name: value for name, value in dataclasses.asdict(config).items() if name != "out"
        },
    }


STUDY = Study(BenchConfig, bench, table, draw)
