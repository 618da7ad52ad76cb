"""Headings of the object by angular alignment, as in single-particle microscopy (Penczek et al.
1992)."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.models.planar_pose.geometry import angle_to_heading

RADIUS = 0.36  # of the disc around the object, in half images
RINGS, SPOKES = 12, 64  # samples of a disc along its radius and its circumference


def find_headings(images: Tensor, positions: Tensor, seed: int = 0) -> tuple[Tensor, float]:
    """Headings of the object in images without background, up to one constant angle.

    A disc around each position is resampled to polar coordinates, where a rotation is a shift along
    the spokes. Discs are aligned to their mean and averaged again, some times, from several random
    starts; the best mean becomes the template for all.

    Args:
        images: int8 ``[M, 3, S, S]``.
        positions: of the object ``[M, 2]``, half images.
        seed: of the starts.

    Returns:
        Unit vectors ``[M, 2]``, and the object's radius of gyration in half images: the root mean
        square distance of its parts from its position.
    """
    radii = (torch.arange(RINGS) + 0.5) / RINGS * RADIUS
    angle = 2 * math.pi * torch.arange(SPOKES) / SPOKES
    polar_grid = radii[:, None, None] * angle_to_heading(angle)
    spectra = []
    for part, centres in zip(images.split(1024), positions.split(1024), strict=True):
        grid = centres[:, None, None] + polar_grid
        discs = F.grid_sample(part.float() / 127, grid, align_corners=False)
        # The square root of the radius weights rings by their area.
        spectra.append(torch.fft.rfft(discs * radii.sqrt()[:, None]))
    discs = torch.cat(spectra).flatten(1, 2)  # [M, 3 * RINGS, SPOKES / 2 + 1]
    template = best_template(discs[:: math.ceil(len(discs) / 10_000)], seed)
    angles = torch.cat([align(part, template)[0] for part in discs.split(4096)])
    mean_disc = torch.fft.irfft(template, SPOKES).unflatten(0, (3, RINGS)).abs().amax(0).mean(1)
    mass = mean_disc * radii.sqrt()  # of a ring; mean_disc holds the other root of the radius
    radius = ((mass * radii.square()).sum() / mass.sum()).sqrt()
    return angle_to_heading(angles), float(radius)


def best_template(discs: Tensor, seed: int, starts: int = 4, rounds: int = 6) -> Tensor:
    """The mean of aligned discs (spectra ``[M, C, F]``), from the best of several random starts."""
    best, mean = -math.inf, discs[0]
    count = min(starts, len(discs))
    for start in np.random.default_rng(seed).choice(len(discs), count, replace=False):
        template = discs[int(start)]
        for _ in range(rounds):
            angles, similarity = align(discs, template)
            template = rotate_back(discs, angles).mean(0)
        if float(similarity.mean()) > best:
            best, mean = float(similarity.mean()), template
    return mean


def align(discs: Tensor, template: Tensor) -> tuple[Tensor, Tensor]:
    """Angles ``[M]`` by which `template` must be rotated to match each of the `discs` best, and the
    similarity then: the peak of the circular cross-correlation. All are spectra along spokes."""
    correlation = torch.fft.irfft((discs * template.conj()).sum(1), SPOKES)  # [M, SPOKES]
    best, at = correlation.max(1)
    rows = torch.arange(len(correlation))
    before, after = correlation[rows, at - 1], correlation[rows, (at + 1) % SPOKES]
    # The peak of a parabola through three samples.
    fraction = (before - after) / (2 * (before - 2 * best + after)).clamp(max=-1e-9)
    return (at + fraction) * 2 * math.pi / SPOKES, best


def rotate_back(discs: Tensor, angles: Tensor) -> Tensor:
    """The `discs`, rotated by minus `angles` ``[M]``."""
    frequencies = torch.arange(discs.shape[-1])
    return discs * torch.exp(1j * angles[:, None] * frequencies).unsqueeze(1)
