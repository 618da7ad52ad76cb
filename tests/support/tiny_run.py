"""A small training run."""

from __future__ import annotations

from pathlib import Path

from worldmodel.models.config import ModelConfig
from worldmodel.training.config import TrainConfig

SMALL = ModelConfig(2, 8, "transformer", width=32, depth=1, heads=2, frameskip=5)


def small_run(folder: Path, name: str, **options: object) -> TrainConfig:
    """On the dataset ``folder / "maze"``; the output is ``folder / name``."""
    return TrainConfig(
        data=str(folder / "maze"),
        encoder="random-112",
        out=str(folder / name),
        cache=str(folder / "latents"),
        batch=16,
        horizon=2,
        model=SMALL,
        **options,  # type: ignore[arg-type]
    )
