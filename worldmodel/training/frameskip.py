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
RESEMBLING = 0.75  # of the mean squared change between random frames of an episode
PAIRS = 512  # of frames, per offset


def measure_frameskip(datasets: Sequence[Dataset], tokens: Sequence[Array]) -> int:
    """The most actions, up to `LARGEST`, after which a frame still resembles the first: its tokens
    have changed by at most a share `RESEMBLING` of the change between random frames of an episode.
    At least 1.

    Args:
        datasets: recorded episodes.
        tokens: of all frames of each dataset, ``[frames, N, C]``.
    """
    rng = np.random.default_rng(0)

    def change(steps: int | None) -> float:
        return sum(_change(*each, steps, rng) for each in zip(datasets, tokens, strict=True))

    most = RESEMBLING * change(None)
    for steps in range(1, LARGEST + 1):
        if change(steps) > most:
            return max(1, steps - 1)
    return LARGEST


def _change(dataset: Dataset, tokens: Array, steps: int | None, rng: np.random.Generator) -> float:
    """Mean squared change of tokens in `steps` actions, or between random frames of an episode. No
    frame comes after the last one of its episode."""
    chosen = rng.integers(len(dataset.lengths), size=PAIRS)
    first, length = dataset.offsets[chosen], dataset.lengths[chosen]
    before = rng.integers(length + 1 if steps is None else np.maximum(1, length + 1 - steps))
    after = rng.integers(length + 1) if steps is None else np.minimum(before + steps, length)
    one, other = (torch.from_numpy(tokens[first + at]).float() for at in (before, after))
    return float((one - other).square().mean())
