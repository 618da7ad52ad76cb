"""Actions that are choices: in each group of numbers, one is 1 and the others are 0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def one_hot(actions: Tensor, groups: Sequence[int]) -> Tensor:
    """The choices that actions [..., A] are nearest to: the largest number of each group becomes 1,
    the others 0.

    groups: how many numbers each group has; they sum to A. Without groups, actions stay as they
        are.
    """
    if not groups:
        return actions
    parts = [
        functional.one_hot(part.argmax(-1), part.shape[-1]).to(part)
        for part in actions.split(list(groups), -1)
    ]
    return torch.cat(parts, -1)
