"""The project's own vision transformer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.errors import UserError

OWN = ("ibot-112", "dino-112", "random-112")  # names of the project's own encoders


@dataclass(frozen=True)
class ViTConfig:
    """Shape of the project's own ViT and the pixel statistics it was trained with.

    Attributes:
        image_size: side of the square input, pixels.
        patch_size: side of a patch, pixels; divides `image_size`.
        dim: width of a token.
        depth: transformer blocks.
        heads: attention heads; divides `dim`.
        mean: per channel, of pixels scaled to [0, 1].
        std: per channel, of pixels scaled to [0, 1].
    """

    image_size: int = 112
    patch_size: int = 14
    dim: int = 192
    depth: int = 6
    heads: int = 3
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        for whole, part in (("image_size", "patch_size"), ("dim", "heads")):
            a, b = getattr(self, whole), getattr(self, part)
            if b < 1 or a < 1 or a % b:
                raise UserError(f"{whole} is {a}; it must be a positive multiple of {part}, {b}.")


def patchify(pixels: Tensor, patch_size: int) -> Tensor:
    """Cut images [B, 3, H, W] into flat patches [B, P, 3 * patch_size ** 2], row by row."""
    b, c, h, w = pixels.shape
    p = patch_size
    x = pixels.reshape(b, c, h // p, p, w // p, p)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // p) * (w // p), c * p * p)


class ViTBlock(nn.Module):
    """A pre-norm transformer block with fused query, key and value."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Explicit products: with few tokens in bfloat16 on a CPU, they are several times faster
        # than PyTorch's fused attention, in both passes.
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1).to(v.dtype)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(b, n, d))
        return x + self.fc2(F.relu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """A small vision transformer with a class token and one token per patch.

    Position embeddings are interpolated to the input's patch grid, so that the small crops of
    self-distillation use the same weights.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = config.image_size // config.patch_size
        self.patch = nn.Linear(3 * config.patch_size**2, config.dim)
        self.cls = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.mask = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos = nn.Parameter(torch.zeros(1, self.grid**2, config.dim))
        self.blocks = nn.ModuleList(ViTBlock(config.dim, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)
        for parameter in (self.cls, self.mask, self.pos):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def positions(self, grid: int) -> Tensor:
        """Position embeddings [1, grid ** 2, dim], resampled if `grid` is not the trained one."""
        if grid == self.grid:
            return self.pos
        square = self.pos.view(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        square = F.interpolate(square, (grid, grid), mode="bilinear", antialias=True)
        return square.flatten(2).transpose(1, 2)

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode normalised pixels.

        Args:
            pixels: float [B, 3, H, W], normalised with the configuration's mean and std.
            mask: bool [B, P]; True hides the patch behind the learned mask token.

        Returns:
            Tokens [B, 1 + P, dim] after the last norm, the class token first.
        """
        x = self.patch(patchify(pixels, self.config.patch_size))
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.mask.to(x.dtype), x)
        x = x + self.positions(pixels.shape[-1] // self.config.patch_size).to(x.dtype)
        x = torch.cat([self.cls.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
