"""How the time of a plan grows with samples, horizon, episodes, width and tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from planners import Budget
from worldmodel.control.config import AgentConfig, make_planner
from worldmodel.models.checkpoint import CheckpointInfo
from worldmodel.models.world_model import WorldModel
from worldmodel.studies.bench_config import BenchConfig
from worldmodel.studies.bench_parts import Loaded, placed, plan_row

RANGES = {
    "samples": (16, 32, 64, 128, 256, 512, 1024),
    "horizon": (1, 2, 4, 8, 16),
    "episodes": (1, 2, 4, 8, 16, 32, 64),
    "width": (64, 128, 256, 512, 1024),
    "tokens": (1, 4, 16, 64),
}
SCALE_ITERATIONS = 2


def bench_scale(config: BenchConfig, loaded: Loaded) -> dict[str, dict[str, Any]]:
    """Median milliseconds of a plan of two iterations while one quantity grows and the others stay
    as the checkpoint has them, and the exponent of the power law with the best fit."""
    model, encoder, info = loaded
    found: dict[str, dict[str, Any]] = {}
    for name, values in RANGES.items():
        ms = []
        for value in values:
            size = {"samples": info.samples, "horizon": info.horizon, "episodes": 1, name: value}
            sized = resized_model(info, size).to(model.action_low.device)
            scaled = model if name in ("samples", "horizon", "episodes") else sized
            settings = AgentConfig(horizon=size["horizon"])
            agent = placed((scaled, encoder, info), make_planner("cem"), settings, size["episodes"])
            row = plan_row(agent, Budget(size["samples"], SCALE_ITERATIONS), config)
            ms.append(float(np.median(row.ms)))
        exponent, constant = np.polyfit(np.log(values), np.log(ms), 1)
        found[name] = {
            "values": list(values),
            "ms": ms,
            "exponent": float(exponent),
            "constant": float(constant),
        }
    return found


def resized_model(info: CheckpointInfo, size: dict[str, int]) -> WorldModel:
    """An untrained model of another width or number of latent tokens. The latter is a transformer,
    since the other predictors fix their number of tokens."""
    if "tokens" in size:
        config = dataclasses.replace(
            info.model,
            tokens=size["tokens"],
            predictor="transformer",
            representation="patch_adapter",
            width=192,
        )
    else:
        config = dataclasses.replace(info.model, width=size.get("width", info.model.width))
    return WorldModel(config, info.spec)
