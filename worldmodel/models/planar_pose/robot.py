"""The robot's position in the image, as a linear map of proprioception."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worldmodel.errors import UserError

if TYPE_CHECKING:
    from worldmodel.data.logs import Logs

Array = NDArray[Any]
PAIRS = 8000  # of consecutive frames that the map is fitted to


def robot_map(logs: Logs) -> Array:
    """`fit_robot_map` on frames of the first dataset."""
    data, proprio = logs.datasets[0], logs.proprio[0]
    at = logs.actions_of(0)[0]
    at = at[:: math.ceil(len(at) / PAIRS)]
    return fit_robot_map(data.pixels(at), data.pixels(at + 1), (proprio[at] + proprio[at + 1]) / 2)


def fit_robot_map(before: Array, after: Array, proprio: Array) -> Array:
    """Fit the robot's position in the image as an affine map of proprioception.

    Most of the change between two consecutive frames is the robot's. So the centroid of the change
    is regressed on proprioception. Least absolute deviations, by iteratively reweighted least
    squares, discount pairs in which something else moves too.

    Args:
        before, after: consecutive frames, uint8 ``[M, H, W, 3]``.
        proprio: midway between the two, normalised, ``[M, Dp]``.

    Returns:
        ``[Dp + 1, 2]``, in half images; the last row is the offset.

    Raises:
        UserError: nothing changes.
    """
    change = np.abs(before.astype(np.int16) - after).max(-1).astype(np.float32)
    change[change < 26] = 0.0  # below a tenth of full scale: noise
    mass = change.sum((1, 2))
    changed = mass > 0
    if not changed.any():
        raise UserError(
            "no frame differs from the next: the robot does not move, or is out of the image"
        )
    side = change.shape[1]
    line = (np.arange(side) + 0.5) / side * 2 - 1
    centroids = np.stack([change.sum(1) @ line, change.sum(2) @ line], 1)[changed]
    centroids /= mass[changed, None]
    inputs = np.c_[proprio, np.ones(len(proprio))][changed].astype(np.float64)
    weight = np.ones((len(inputs), 1))
    for _ in range(30):
        root = np.sqrt(weight)
        found: Array = np.linalg.lstsq(root * inputs, root * centroids, rcond=None)[0]
        residual = np.linalg.norm(inputs @ found - centroids, axis=1, keepdims=True)
        weight = 1 / (residual + 0.003)
    return found.astype(np.float32)
