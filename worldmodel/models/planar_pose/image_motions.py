"""Rotated and shifted images, for learning by equivariance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.cli import progress
from worldmodel.encoders.augmentation import Augment, AugmentConfig, dead_leaves
from worldmodel.encoders.encoder import Encoder
from worldmodel.models.planar_pose.geometry import angle_to_heading, inverse, rotate

Array = NDArray[Any]

THUMBNAIL = 64  # pixels: side of the images in which headings are found


@dataclass(frozen=True)
class MovedFrames:
    """One moved view of every frame.

    Attributes:
        tokens: the encoder's tokens of the views, float16 ``[M, N, C]``.
        rotations: of the views, unit vectors ``[M, 2]``.
        shifts: of the views, after the rotation, ``[M, 2]``, half images.
        thumbnails: the original frames without background, int8 ``[M, 3, 64, 64]``.
    """

    tokens: Array
    rotations: Tensor
    shifts: Tensor
    thumbnails: Tensor


def move_frames(
    encoder: Encoder, pixels: Callable[[slice], Array], shape: tuple[int, ...], seed: int
) -> MovedFrames:
    """Rotate and shift every frame at random, randomise the appearance of 70 %, and encode them.

    Args:
        encoder: the frozen encoder.
        pixels: reads a slice of the frames, uint8 ``[m, H, W, 3]``.
        shape: of their tokens, (M, N, C).
        seed: of the motions.
    """
    count = shape[0]
    tokens = np.empty(shape, np.float16)
    rotations, shifts = torch.empty(count, 2), torch.empty(count, 2)
    thumbnails = torch.empty(count, 3, THUMBNAIL, THUMBNAIL, dtype=torch.int8)
    generator = torch.Generator().manual_seed(seed)
    side = pixels(slice(0, 1)).shape[1]
    textures = torch.from_numpy(dead_leaves(256, side, seed))
    config = AugmentConfig(global_size=side, recolour=0.5, background=0.3)
    augment = Augment(config, textures, torch.zeros(3), torch.ones(3))
    starts = range(0, count, 256)
    for at in progress(starts, len(starts), "moved images"):
        part = slice(at, min(at + 256, count))
        images = torch.from_numpy(pixels(part)).permute(0, 3, 1, 2).float() / 255
        content, background = split_background(images)
        thumbnails[part] = (127 * F.adaptive_avg_pool2d(content, THUMBNAIL)).to(torch.int8)
        content, rotations[part], shifts[part] = move_images(content, generator)
        images = content + background
        changed = add_borders(augment.relook(recolour(images, generator), generator), generator)
        plain = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.3
        images = torch.where(plain, images, changed).clamp(0, 1)
        views = (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1)
        tokens[part] = encoder.encode(views).cpu().half().numpy()
    return MovedFrames(tokens, rotations, shifts, thumbnails)


def split_background(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images ``[B, 3, H, W]`` minus their median colour, and that colour ``[B, 3, 1, 1]``."""
    background = images[:, :, 3::7, 3::7].flatten(2).median(2).values[:, :, None, None]
    return images - background, background


def move_images(content: Tensor, generator: torch.Generator, tries: int = 8) -> tuple[Tensor, ...]:
    """Rotate images without background ``[B, 3, H, W]`` by any angle and shift them. Of some random
    motions, each image takes the one that keeps most of its content in view.

    The new centroid of the content is drawn independently of the rotation and of the old one.
    Otherwise the two would correlate, and a direction from the centre of the image would seem to
    rotate with it.

    Returns:
        The images, their rotations ``[B, 2]`` (unit vectors) and shifts ``[B, 2]``, half images.
    """
    count, side = len(content), 28
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    cells = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).flatten(0, 1)  # x, y
    occupied = F.adaptive_avg_pool2d(content.abs().amax(1, keepdim=True), side).flatten(1)
    occupied = (occupied > 0.08).float()
    centroid = occupied @ cells / occupied.sum(1, keepdim=True).clamp_min(1)
    angle = 2 * math.pi * torch.rand(count, tries, generator=generator)
    rotation = angle_to_heading(angle)
    target = 1.5 * torch.rand(count, tries, 2, generator=generator) - 0.75
    shift = target - rotate(centroid[:, None], rotation)
    ends = rotate(cells, rotation.unsqueeze(2)) + shift.unsqueeze(2)  # [B, tries, side^2, 2]
    lost = ((ends.abs().amax(-1) > 0.97) * occupied[:, None]).sum(-1)
    best = torch.arange(count), lost.argmin(1)
    rotation, shift = rotation[best], shift[best]
    # grid_sample needs the inverse motion: where each pixel of the result comes from.
    back = inverse(rotation)
    (cos, sin), origin = back.T, -rotate(shift, back)
    motion = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    grid = F.affine_grid(
        torch.cat([motion, origin.unsqueeze(2)], 2), list(content.shape), align_corners=False
    )
    return F.grid_sample(content, grid, align_corners=False), rotation, shift


def recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images ``[B, 3, H, W]``; in 70 %, a random colour replaces one colour: that of the ground, or
    that of a random pixel that differs from it."""
    count = len(images)
    _, ground = split_background(images)
    ground, colours = ground.flatten(2), images.flatten(2)
    differs = ((colours - ground).abs().amax(1) > 0.1).float() + 1e-6
    pixel = torch.multinomial(differs, 1, generator=generator)[:, None].expand(-1, 3, -1)
    other = colours.gather(2, pixel)
    of_ground = torch.rand(count, 1, 1, generator=generator) < 0.5
    old, unchanged = torch.where(of_ground, ground, other), torch.where(of_ground, other, ground)
    # Pixels at an edge mix two colours: they change in proportion to their share of the old one.
    contrast = (unchanged - old).norm(dim=1, keepdim=True).clamp_min(0.05)
    share = (1 - (colours - old).norm(dim=1, keepdim=True) / contrast).clamp_min(0)
    new = torch.rand(count, 3, 1, generator=generator)
    painted = torch.lerp(colours, new.expand_as(colours), share).view_as(images)
    chosen = torch.rand(count, 1, 1, 1, generator=generator) < 0.7
    return torch.where(chosen, painted, images)


def add_borders(images: Tensor, generator: torch.Generator, widest: float = 0.04) -> Tensor:
    """Images ``[B, 3, H, W]``; half of them with strips of a random colour along one or two sides,
    as where a camera sees beyond the edge of the workspace."""
    count, side = len(images), images.shape[-1]
    line = torch.arange(side)
    width = widest * side * torch.rand(count, 2, 1, generator=generator)
    line = torch.where(torch.rand(count, 2, 1, generator=generator) < 0.5, line, line.flip(0))
    across, down = (line < width).unbind(1)
    strips = across[:, None] | down[:, :, None]
    strips &= torch.rand(count, 1, 1, generator=generator) < 0.5
    colour = torch.rand(count, 3, 1, 1, generator=generator)
    return torch.where(strips[:, None], colour, images)
