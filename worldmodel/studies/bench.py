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
import os
from typing import Any

import torch

from worldmodel.cli import Progress, progress
from worldmodel.cli.device import pick_device
from worldmodel.measure.provenance import cpu_model
from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.studies import clock
from worldmodel.studies.bench_config import PARTS, BenchConfig
from worldmodel.studies.bench_parts import MEASURES
from worldmodel.studies.bench_report import draw, table
from worldmodel.studies.bench_scale import bench_scale
from worldmodel.studies.study import Study


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
            for row in MEASURES[part](config, loaded):
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
