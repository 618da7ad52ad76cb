"""How many primitive actions one model step takes, measured from recorded frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldmodel.data.dataset import Dataset

Array = NDArray[Any]

LARGEST = 5  # as in DINO-WM (Zhou et al. 2025)
CHANGED = 0.8  # of the mean squared change between random frames of an episode
PAIRS = 512  # of frames, of each kind


def measure_frameskip(datasets: Sequence[Dataset], tokens: Sequence[Array]) -> int:
    """The actions, 1 to `LARGEST`, in which frames would change by a share `CHANGED` of the change
    between random frames of an episode, if they kept changing as in one action. So a frame always
    resembles the one before, and frames that change slowly need fewer model steps.

    Args:
        datasets: recorded episodes.
        tokens: of all frames of each dataset, ``[frames, N, C]``.
    """
    rng = np.random.default_rng(0)
    pairs = zip(datasets, tokens, strict=True)
    in_one_action, between_random = np.sum([_changes(*pair, rng) for pair in pairs], axis=0)
    fitting = CHANGED * between_random / max(in_one_action, 1e-12)
    return int(min(LARGEST, max(1.0, fitting)))


def _changes(dataset: Dataset, tokens: Array, rng: np.random.Generator) -> tuple[float, float]:
    """Mean squared changes of tokens: in one action, and between random frames of an episode."""
    chosen = rng.integers(len(dataset.lengths), size=PAIRS)
    first, length = dataset.offsets[chosen], dataset.lengths[chosen]

    def frames(step: Array) -> torch.Tensor:
        return torch.from_numpy(tokens[first + step]).float()

    step = rng.integers(np.maximum(1, length))
    now, after = frames(step), frames(np.minimum(step + 1, length))
    elsewhere = frames(rng.integers(length + 1))
    return float((after - now).square().mean()), float((elsewhere - now).square().mean())
