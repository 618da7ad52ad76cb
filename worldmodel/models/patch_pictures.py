"""A small brightness picture of each patch as latents."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodel.errors import UserError
from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.principal_components import LinearPatches
from worldmodel.models.registry import REPRESENTATIONS


@REPRESENTATIONS.register("patch_pictures")
class PatchPictures(LinearPatches):
    """A brightness picture of n x n = D cells for each patch, read linearly off its token.

    Scattered material has no pose, but it has a distribution. Pictures are compared in the Sobolev
    norm H^-1, which for small changes is the distance of optimal transport (Peyre 2018): how far
    brightness would have to be carried.
    """

    cosines: Tensor
    frequency_weight: Tensor

    def __init__(self, config: ModelConfig, spec: DataSpec):
        super().__init__(config, spec)
        self.cells, self.patches = math.isqrt(config.dim), math.isqrt(config.tokens)
        if self.cells**2 != config.dim or self.patches**2 != config.tokens:
            raise UserError(
                f"patch_pictures needs a square number of patches and of cells in each, not "
                f"{config.tokens} patches of {config.dim} channels"
            )
        side = self.cells * self.patches
        count = torch.arange(side)
        cosines = torch.cos(math.pi / side * count[:, None] * (count + 0.5))
        cosines /= cosines.norm(dim=1, keepdim=True)
        self.register_buffer("cosines", cosines, persistent=False)
        weight = (1 + count[:, None] ** 2 + count**2) ** -0.5
        self.register_buffer("frequency_weight", weight)

    def fit_frames(self, tokens: Tensor, pixels: Tensor) -> None:
        """Fit a ridge regression from patch tokens to the brightness of the patch's cells."""
        brightness = pixels.float().mean(-1).unsqueeze(1)
        pictures = self.split(F.adaptive_avg_pool2d(brightness, len(self.cosines))[:, 0])
        self.mean.copy_(tokens.mean((0, 1)))
        # On the CPU: not every device has float64.
        inputs = (tokens - self.mean).flatten(0, 1).cpu().double()
        gram = inputs.T @ inputs
        gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram))
        targets = (pictures - pictures.mean(0)).flatten(0, 1).cpu().double()
        self.basis.copy_(torch.linalg.solve(gram, inputs.T @ targets))
        z = self.encode(tokens)
        self.basis /= (z - z.mean(0)).std().clamp_min(1e-6)
        # Scale distances: random frames are 2 apart on average, as latents of variance 1 are.
        z = self.encode(tokens)
        mean_distance = self.distance(z, z.roll(len(z) // 2, 0)).mean()
        self.frequency_weight *= (2 / mean_distance.clamp_min(1e-12)).sqrt()

    def split(self, picture: Tensor) -> Tensor:
        """A picture ``[..., side, side]`` as the cells of each patch ``[..., N, n * n]``."""
        grid = picture.unflatten(-1, (self.patches, -1)).unflatten(-3, (self.patches, -1))
        return grid.transpose(-3, -2).flatten(-2).flatten(-3, -2)

    def join(self, z: Tensor) -> Tensor:
        """The inverse of `split`."""
        grid = z.unflatten(-1, (self.cells, -1)).unflatten(-3, (self.patches, -1))
        return grid.transpose(-3, -2).flatten(-2).flatten(-3, -2)

    def distance(self, z: Tensor, other: Tensor) -> Tensor:
        """Squared H^-1 distance ``[...]`` of pictures ``[..., N, D]``."""
        spectrum = self.cosines @ self.join(z - other).float() @ self.cosines.T
        return (self.frequency_weight * spectrum).square().sum((-2, -1))
