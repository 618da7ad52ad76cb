"""Stale frames: the camera repeats an image while the robot moves."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

MOVED = 0.2  # standard deviations of proprio


class StaleFrames:
    """Detects cameras that repeat an image, byte for byte, while the robot has moved.

    Args:
        readable: share of each number of proprio that an image shows, ``[Dp]``; the robot has
            moved only if a number that images show has changed.
        proprio_std: standard deviation of proprio in the data, ``[Dp]``.
    """

    def __init__(self, readable: tuple[float, ...], proprio_std: Tensor) -> None:
        self._visible = torch.tensor(readable, device=proprio_std.device) > 0.5
        self._least = MOVED * proprio_std
        self._first: tuple[NDArray[Any], Tensor] | None = None  # frame, and proprio when it came

    def update(self, pixels: NDArray[Any], proprio: Tensor) -> Tensor:
        """Whether pixels ``[E, H, W, 3]`` are stale at proprio ``[E, Dp]``, bool ``[E]``."""
        if self._first is None:
            self._first = pixels.copy(), proprio.clone()
        before, then = self._first
        same = (pixels == before).all((1, 2, 3))
        moved = ((proprio - then).abs() > self._least) & self._visible
        before[~same] = pixels[~same]
        repeats = torch.from_numpy(same)
        self._first = before, torch.where(repeats.to(then.device)[:, None], then, proprio)
        return repeats & moved.any(1).cpu()
