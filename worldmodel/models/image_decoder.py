"""Networks that decode latents to images, for people to look at."""

from __future__ import annotations

import math

from torch import Tensor, nn


class ImageDecoder(nn.Module):
    """Latents ``[B, P, D]`` to images ``[B, 3, H, W]``, roughly from 0 to 1.

    Attributes:
        learning_rate: peak learning rate that suits this decoder.
    """

    learning_rate: float = 0.003

    def loss(self, image: Tensor, truth: Tensor) -> Tensor:
        """Mean squared error, which keeps small and rare objects, such as a ball, visible."""
        return (image - truth).square().mean()


class PatchDecoder(ImageDecoder):
    """A convolutional decoder on a square grid of patches: the latent tokens themselves where they
    form one of at least 4 x 4, else a grid computed from all of them."""

    def __init__(self, tokens: int, dim: int, side: int, width: int = 128):
        super().__init__()
        self.cells = math.isqrt(tokens)
        self.to_grid = None
        if tokens < 16 or self.cells**2 != tokens or side % self.cells:
            self.cells = next(n for n in (8, 7, 6, 5, 4, 3, 2, 1) if side % n == 0)
            self.to_grid = nn.Sequential(
                nn.Linear(tokens * dim, 512), nn.GELU(), nn.Linear(512, self.cells**2 * width)
            )
            dim = width
        factor = side // self.cells
        fine = 2 if factor % 2 == 0 else 1  # one more convolution smooths the last doubling
        coarse = factor // fine
        self.conv = nn.Sequential(
            nn.Conv2d(dim, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 24 * coarse**2, 1),
            nn.PixelShuffle(coarse),
            nn.GELU(),
            nn.Conv2d(24, 24, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(24, 12 * fine**2, 3, padding=1),
            nn.PixelShuffle(fine),
            nn.GELU(),
            nn.Conv2d(12, 3, 3, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        z = z.flatten(1) if self.to_grid is None else self.to_grid(z.flatten(1))
        cells = z.unflatten(1, (self.cells**2, -1)).transpose(1, 2)
        image = self.conv(cells.unflatten(-1, (self.cells, self.cells)))
        return image.float()
