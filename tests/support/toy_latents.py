"""Latents with known content, and a world model to imagine them with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.latents import LatentClips
from worldmodel.models.world_model import WorldModel


def truths(n: int, seed: int = 0) -> Tensor:
    """Two independent positions and the square of the first: [n, 3]."""
    positions = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([positions, positions[:, :1] ** 2], 1)


def latents(y: Tensor, size: int = 6) -> Tensor:
    """Latents [n, size] that hold the two positions linearly, with noise."""
    g = torch.Generator().manual_seed(5)
    mixing = torch.linalg.qr(torch.randn(size, size, generator=g))[0][:2]
    return y[:, :2] @ mixing + 0.01 * torch.randn(len(y), size, generator=g)


def toy_model(**config: Any) -> WorldModel:
    """A new world model: it predicts that nothing moves."""
    spec = DataSpec(4, 8, (-1.0,), (1.0,), (0.0, 0.0), (1.0, 1.0))
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"tokens": 1, "dim": 6, "predictor": "mlp", "width": 16, "depth": 2}
    return WorldModel(ModelConfig(**{**sizes, "context": 2, "frameskip": 2, **config}), spec)


def clips_of(z: Tensor, steps: int = 3) -> LatentClips:
    """Clips of toy latents [n, C] in which nothing moves."""
    n = len(z)
    return LatentClips(
        z[:, None, None].repeat(1, 2, 1, 1),
        torch.zeros(n, 2, 2),
        torch.zeros(n, 1, 2),
        torch.rand(n, steps, 2, generator=torch.Generator().manual_seed(1)),
        np.arange(n)[:, None] + np.arange(steps + 1),
    )
