"""Learned latents: a small network on the principal components of patch tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.layers import patch_centres
from worldmodel.models.registry import REPRESENTATIONS
from worldmodel.models.representations import Representation

if TYPE_CHECKING:
    from worldmodel.data.logs import Logs

START = 8.0  # mean squared distance of latents, before training
PAIRS = 1024  # of frames, that components are computed from


@REPRESENTATIONS.register("patch_adapter")
class PatchAdapter(Representation):
    """Patch tokens to P x D latents, in two stages.

    1. Tokens are reduced to the principal components of their changes within episodes, each scaled
       to unit variance. What never changes while the robot acts, such as a background, is dropped.
       This stage is linear and fixed before training.
    2. An MLP turns the components into latents. It sees them patch by patch, which tells where
       things are, and as vectors pooled over all patches by learned attention, which describe an
       object in the same way wherever it is.
    """

    mean: Tensor
    basis: Tensor
    centres: Tensor

    def __init__(
        self,
        config: ModelConfig,
        spec: DataSpec,
        components: int = 32,
        width: int = 64,
        queries: int = 8,
        hidden: int = 1024,
    ):
        """
        Args:
            components: principal components of each patch token.
            width: of the vectors that are pooled.
            queries: pooled vectors.
            hidden: width of the MLP.
        """
        super().__init__(config, spec)
        components = min(components, spec.token_dim)
        self.register_buffer("mean", torch.zeros(spec.num_tokens, spec.token_dim))
        self.register_buffer("basis", torch.zeros(spec.token_dim, components))
        self.register_buffer("centres", patch_centres(spec.num_tokens), persistent=False)
        self.features = nn.Linear(components, width)
        self.positions = nn.Parameter(0.02 * torch.randn(spec.num_tokens, width))
        self.attention = nn.Linear(width, queries)
        self.norm = nn.LayerNorm(queries * (width + 2))
        self.mix = nn.Sequential(
            nn.Linear(queries * (width + 2) + components * spec.num_tokens, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden // 2),
            nn.ReLU(),
            nn.Linear(hidden // 2, config.tokens * config.dim),
        )

    @property
    def fitted(self) -> bool:
        return bool(self.basis.any())

    def fit(self, logs: Logs) -> None:
        """Compute the components of changes within episodes."""
        frames, others = logs.random_pairs(PAIRS)
        one, other = frames.cpu().double(), others.cpu().double()  # not every device has float64
        change = (one - other).flatten(0, 1)
        variance, axes = torch.linalg.eigh(change.T @ change / len(change))
        count = self.basis.shape[1]
        # A difference has twice the variance.
        scale = (variance[-count:] / 2).clamp_min(1e-12).rsqrt()
        self.mean.copy_((one.mean(0) + other.mean(0)) / 2)
        self.basis.copy_((axes[:, -count:] * scale).flip(1))
        # Latents of a few units: otherwise the contrast between frames would start out flat.
        with torch.no_grad():
            z = self.encode(frames).flatten(1)
            scale = (START / (z - z.roll(1, 0)).square().sum(-1).mean()).sqrt()
            last = self.mix[-1]
            assert isinstance(last, nn.Linear)
            last.weight.mul_(scale)
            last.bias.mul_(scale)

    def reduce(self, tokens: Tensor) -> Tensor:
        return (tokens.float() - self.mean) @ self.basis

    def adapt(self, reduced: Tensor) -> Tensor:
        x = reduced.flatten(0, -3)
        features = F.relu(self.features(x) + self.positions)
        weights = self.attention(features).transpose(1, 2).softmax(-1)
        places = self.centres.expand(x.shape[0], -1, -1)
        pooled = weights.to(features.dtype) @ torch.cat([features, places.to(features.dtype)], -1)
        z = self.mix(torch.cat([self.norm(pooled.flatten(1)), x.flatten(1)], -1)).float()
        return z.reshape(*reduced.shape[:-2], self.config.tokens, self.config.dim)
