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
PAIRS = 2048  # of frames


def measure_frameskip(datasets: Sequence[Dataset], tokens: Sequence[Array]) -> int:
    """The actions, 1 to `LARGEST`, in which frames would change by a share `CHANGED` of the change
    between random frames of an episode, if they kept changing as in one action. So a frame always
    resembles the one before, and frames that change slowly need fewer model steps.

    Args:
        datasets: recorded episodes.
        tokens: of all frames of each dataset, ``[frames, N, C]``.
    """
    rng = np.random.default_rng(0)
    pairs = list(zip(datasets, tokens, strict=True))
    in_one_action = sum(_change(*pair, 1, rng) for pair in pairs)
    between_random = sum(_change(*pair, None, rng) for pair in pairs)
    fitting = CHANGED * between_random / max(in_one_action, 1e-12)
    return int(min(LARGEST, max(1.0, fitting)))


def _change(dataset: Dataset, tokens: Array, steps: int | None, rng: np.random.Generator) -> float:
    """Mean squared change of tokens in `steps` actions, or between random frames of an episode. No
    frame comes after the last one of its episode."""
    chosen = rng.integers(len(dataset.lengths), size=PAIRS)
    first, length = dataset.offsets[chosen], dataset.lengths[chosen]
    before = rng.integers(length + 1 if steps is None else np.maximum(1, length + 1 - steps))
    after = rng.integers(length + 1) if steps is None else np.minimum(before + steps, length)
    one, other = (torch.from_numpy(tokens[first + at]).float() for at in (before, after))
    return float((one - other).square().mean())
