"""Images for pretraining, held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from worldmodel.data.dataset import open_dataset
from worldmodel.errors import UserError

Array = NDArray[Any]
Triple = tuple[float, float, float]


def load_frames(paths: Sequence[str], count: int, size: int, seed: int) -> Array:
    """Draw random frames from datasets or .npy files, the same number from each.

    Args:
        paths: dataset folders, or .npy files of uint8 [N, H, W, 3].
        count: frames in all, at most.
        size: side that frames are resized to, pixels.
        seed: of the draw.

    Returns:
        uint8 [M, size, size, 3].

    Raises:
        UserError: no paths, or one that is missing or holds other data.
    """
    if not paths:
        raise UserError("data is empty: name at least one dataset folder or .npy file")
    rng = np.random.default_rng(seed)
    share = max(1, count // len(paths))
    parts = []
    for path in paths:
        if not Path(path).exists():
            raise UserError(f"no data at {path!r}: make some with python -m worldmodel.collect")
        if path.endswith(".npy"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8:
                raise UserError(
                    f"{path!r} holds {array.dtype} {list(array.shape)}: "
                    "frames are uint8 [N, H, W, 3]"
                )
            index = np.sort(rng.permutation(len(array))[:share])
            frames = np.ascontiguousarray(array[index])
        else:
            dataset = open_dataset(path)
            frames = dataset.pixels(np.sort(rng.permutation(len(dataset))[:share]))
        if frames.shape[1:3] != (size, size):
            frames = _resize(frames, size)
        parts.append(frames)
    return np.concatenate(parts)


def _resize(frames: Array, size: int) -> Array:
    out = np.empty((len(frames), size, size, 3), np.uint8)
    for i in range(0, len(frames), 256):
        x = torch.from_numpy(frames[i : i + 256]).permute(0, 3, 1, 2).float()
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        out[i : i + 256] = x.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return out


def pixel_statistics(images: Sequence[Array], weights: Sequence[float]) -> tuple[Triple, Triple]:
    """Mean and standard deviation per channel, in [0, 1] units, of a mixture of images.

    Args:
        images: sets of images, uint8 [N, H, W, 3].
        weights: share of each set in the mixture.
    """
    mean, square = np.zeros(3), np.zeros(3)
    for each, weight in zip(images, weights, strict=True):
        sample = each[:: max(1, len(each) // 500)].reshape(-1, 3) / 255.0
        mean += weight * sample.mean(0)
        square += weight * (sample**2).mean(0)
    std = np.sqrt(np.maximum(square - mean**2, 1e-4))
    return _triple(mean), _triple(std)


def _triple(values: Array) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
