"""Learned latents: a small network on the principal components of patch tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.layers import MergePatches, patch_centres
from worldmodel.models.registry import REPRESENTATIONS
from worldmodel.models.representations import Representation
from worldmodel.models.slow_metric import slow_metric

if TYPE_CHECKING:
    from worldmodel.data.logs import Logs

START = 8.0  # mean squared distance of latents, before training
COARSE = 4  # positions along each side of the last feature map
PAIRS = 1024  # of frames, that components are computed from
LEAST = 0.1  # added to the variance over an image, so that an image without contrast stays near 0


@REPRESENTATIONS.register("patch_adapter")
class PatchAdapter(Representation):
    """Patch tokens to P x D latents, in two stages.

    1. Tokens are reduced to the principal components of their changes within episodes, each scaled
       to unit variance. What never changes while the robot acts, such as a background, is dropped.
       Each component is then normalised over the patches of its image (instance normalisation:
       Ulyanov et al. 2016), since another ground or light shifts the tokens of all patches alike.
       This stage is fixed before training.
    2. A convolutional network turns the components into latents. It looks for the same things
       everywhere in the image, so it needs less data than an MLP of all tokens. Its features reach
       the latents twice: with their places, and pooled over the image. Pooled features say what
       objects look like wherever they are. Without them, latents hold little of an object's
       heading, because at every place it looks different.
    """

    mean: Tensor
    basis: Tensor
    centres: Tensor
    metric: Tensor

    def __init__(
        self,
        config: ModelConfig,
        spec: DataSpec,
        components: int = 32,
        width: int = 96,
        hidden: int = 512,
    ):
        """
        Args:
            components: principal components of each patch token.
            width: channels of the first layers.
            hidden: width of the last layer but one.
        """
        super().__init__(config, spec)
        self.side = side = math.isqrt(spec.num_tokens)
        components = min(components, spec.token_dim)
        self.register_buffer("mean", torch.zeros(spec.num_tokens, spec.token_dim))
        self.register_buffer("basis", torch.zeros(spec.token_dim, components))
        numbers = config.tokens * config.dim
        self.register_buffer("metric", torch.eye(numbers) / math.sqrt(numbers))
        self.register_buffer("centres", patch_centres(spec.num_tokens), persistent=False)
        self.local = nn.Sequential(
            nn.Conv2d(components + 2, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        merges: list[nn.Module] = []
        channels = width
        while side > COARSE:
            merges += [MergePatches(channels, 2 * width), nn.ReLU()]
            channels, side = 2 * width, (side + 1) // 2
        size = channels * side * side
        self.merge = nn.Sequential(*merges)
        self.where = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, hidden))
        self.what = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, hidden))
        self.out = nn.Sequential(nn.ReLU(), nn.Linear(hidden, numbers))

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
            last = self.out[-1]
            assert isinstance(last, nn.Linear)
            last.weight.mul_(scale)
            last.bias.mul_(scale)

    def fit_distance(self, z: Tensor) -> None:
        self.metric.copy_(slow_metric(z.flatten(2)))

    def distance(self, z: Tensor, other: Tensor) -> Tensor:
        """Squared distance ``[...]``: see `slow_metric`."""
        offset = (z - other).flatten(-2).float()
        return (offset @ self.metric.T).square().sum(-1)

    def reduce(self, tokens: Tensor) -> Tensor:
        components = (tokens.float() - self.mean) @ self.basis
        variance, mean = torch.var_mean(components, -2, correction=0, keepdim=True)
        return (components - mean) * (variance + LEAST).rsqrt()

    def adapt(self, reduced: Tensor) -> Tensor:
        x = reduced.flatten(0, -3)
        places = self.centres.to(x.dtype).expand(x.shape[0], -1, -1)
        # Channels stay last in memory, in which order convolutions are fastest.
        image = torch.cat([x, places], -1).unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        local = self.local(image)
        placed = self.merge(local).permute(0, 2, 3, 1).flatten(1)
        pooled = torch.cat([local.mean((2, 3)), local.amax((2, 3))], 1)
        z = self.out(self.where(placed) + self.what(pooled)).float()
        return z.reshape(*reduced.shape[:-2], self.config.tokens, self.config.dim)
