"""Rotations in the plane of the image.

Positions are ``[..., 2]``: x to the right, y down, in half images from the centre. A heading is a
unit vector ``[..., 2]``, the cosine and sine of an angle.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(points: Tensor, heading: Tensor) -> Tensor:
    """Points ``[..., 2]`` rotated by the angle of `heading` ``[..., 2]``."""
    (x, y), (cos, sin) = points.unbind(-1), heading.unbind(-1)
    return torch.stack([x * cos - y * sin, x * sin + y * cos], -1)


def inverse(heading: Tensor) -> Tensor:
    """The heading of the opposite rotation."""
    return heading * heading.new_tensor([1.0, -1.0])


def angle_to_heading(angle: Tensor) -> Tensor:
    """Headings ``[..., 2]`` of angles ``[...]``, radians."""
    return torch.stack([angle.cos(), angle.sin()], -1)
