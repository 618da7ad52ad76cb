"""Building blocks of the networks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TransformerBlock(nn.Module):
    """A transformer block; if `modulated`, a condition ``[B, W]`` scales and shifts it (AdaLN)."""

    def __init__(self, width: int, heads: int, modulated: bool):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width) if modulated else None
        if self.modulation:
            # Small rather than zero, so that actions matter from the first step (jepa-wms, 2025).
            nn.init.normal_(self.modulation.weight, std=0.02)
            nn.init.zeros_(self.modulation.bias)
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1 = scale1 = gate1 = shift2 = scale2 = gate2 = x.new_zeros(1)
        if self.modulation:
            parts = self.modulation(condition).unsqueeze(1).chunk(6, dim=-1)
            shift1, scale1, gate1, shift2, scale2, gate2 = parts
        y = self.norm1(x) * (1 + scale1) + shift1
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(y).chunk(3, -1)
        )
        # For so few tokens, plain products are faster on a CPU than PyTorch's fused attention.
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).to(v.dtype)
        y = (weights @ v).transpose(1, 2).flatten(-2)
        x = x + (1 + gate1) * self.out(y)
        y = self.norm2(x) * (1 + scale2) + shift2
        return x + (1 + gate2) * self.mlp(y)


class ResidualBlock(nn.Module):
    """A residual block of two linear layers with GELU or ReLU; the identity at first."""

    def __init__(self, width: int, relu: bool = False):
        super().__init__()
        last = nn.Linear(2 * width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        activation = nn.ReLU() if relu else nn.GELU(approximate="tanh")
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), activation, last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


def patch_centres(num_tokens: int) -> Tensor:
    """Centres ``[N, 2]`` (row, column) of the patches of a square image; the outermost are at -1
    and 1."""
    line = torch.linspace(-1, 1, math.isqrt(num_tokens))
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1)


class MergePatches(nn.Module):
    """Four neighbouring patches to one (Swin Transformer: Liu et al. 2021), ``[B, C, H, W]`` to
    ``[B, D, ceil(H / 2), ceil(W / 2)]``. Faster on a CPU than a convolution of stride 2."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.linear = nn.Linear(4 * channels, out)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, width % 2, 0, height % 2)).permute(0, 2, 3, 1)
        fours = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).flatten(3)
        merged: Tensor = self.linear(fours).permute(0, 3, 1, 2)
        return merged
