"""Predictors: how latents change in one model step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from worldmodel.errors import UserError
from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.layers import ResidualBlock, TransformerBlock, patch_centres
from worldmodel.models.registry import PREDICTORS

if TYPE_CHECKING:
    from worldmodel.data.logs import Logs


class Predictor(nn.Module):
    """Latents of the context, and a condition (actions and proprioception), to the change of both.

    Subclasses end with the linear layers `next_z` and `next_proprio`, and hold most of their
    matrices in `blocks`.

    Attributes:
        per_token: the blocks run for each latent token, rather than once a frame.
        expansion: hidden width of a block, as a multiple of the predictor's width.
    """

    per_token: ClassVar[bool] = False
    expansion: ClassVar[int] = 2

    blocks: nn.Sequential | nn.ModuleList
    next_z: nn.Linear
    next_proprio: nn.Linear

    def __init__(self, config: ModelConfig, spec: DataSpec):
        super().__init__()
        self.config = config
        self.action_dim, self.proprio_dim = len(spec.action_low), len(spec.proprio_mean)
        # Normalised actions, then normalised proprioception, of all context frames.
        self.condition_dim = config.context * (
            config.frameskip * self.action_dim + self.proprio_dim
        )

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """Raise a UserError if `config` does not suit this predictor."""

    @property
    def fitted(self) -> bool:
        """Whether `fit` has run, or need not."""
        return True

    def fit(self, logs: Logs) -> None:
        """Compute the parameters that come from the logs rather than from training."""

    def forward(self, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """One model step.

        Args:
            z: latents of the context frames, oldest first, ``[B, K, P, D]``.
            condition: normalised actions and proprioception ``[B, condition_dim]``.

        Returns:
            Change of the latents ``[B, P, D]`` and of normalised proprioception ``[B, Dp]``.
        """
        raise NotImplementedError


@PREDICTORS.register("transformer")
class TransformerPredictor(Predictor):
    """A transformer over latent tokens, with the context frames stacked in channels. The condition
    enters through AdaLN (Peebles and Xie 2023), or is appended to each token (Zhou et al. 2025)."""

    per_token = True
    expansion = 4

    def __init__(self, config: ModelConfig, spec: DataSpec):
        super().__init__(config, spec)
        k, p, d, w = config.context, config.tokens, config.dim, config.width
        adaln, size = config.actions == "adaln", self.condition_dim
        self.embed = nn.Linear(k * d if adaln else k * d + size, w)
        self.positions = nn.Parameter(0.02 * torch.randn(p, w))
        self.condition = (
            nn.Sequential(nn.Linear(size, w), nn.SiLU(), nn.Linear(w, w), nn.SiLU())
            if adaln
            else None
        )
        self.blocks = nn.ModuleList(
            TransformerBlock(w, config.heads, adaln) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(w)
        self.next_z = nn.Linear(w, d)
        self.next_proprio = nn.Linear(p * w, self.proprio_dim)

    def forward(self, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        x = z.transpose(1, 2).flatten(2)
        if self.condition:
            condition = self.condition(condition)
        else:
            x = torch.cat([x, condition.unsqueeze(1).expand(-1, x.shape[1], -1)], -1)
        x = self.embed(x) + self.positions
        for block in self.blocks:
            x = block(x, condition)
        x = self.norm(x)
        return self.next_z(x), self.next_proprio(x.flatten(1))


@PREDICTORS.register("mlp")
class MLPPredictor(Predictor):
    """A residual MLP over latents and condition side by side: cheaper than the transformer where
    latents are few."""

    def __init__(self, config: ModelConfig, spec: DataSpec, extra: int = 0):
        """`extra`: further inputs that a subclass computes."""
        super().__init__(config, spec)
        size, w = config.tokens * config.dim, config.width
        self.blocks = nn.Sequential(
            nn.Linear(config.context * size + self.condition_dim + extra, w),
            *(ResidualBlock(w, config.activation == "relu") for _ in range(config.depth)),
        )
        self.norm = nn.LayerNorm(w)
        self.next_z = nn.Linear(w, size)
        self.next_proprio = nn.Linear(w, self.proprio_dim)

    def forward(self, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(self.blocks(torch.cat([z.flatten(1), condition], -1)))
        change = self.next_z(x).unflatten(-1, (self.config.tokens, self.config.dim))
        return change, self.next_proprio(x)


@PREDICTORS.register("local")
class LocalPredictor(Predictor):
    """The same small network for every patch, with the patches around it as input: dynamics learnt
    at one place apply everywhere. The condition is combined with the patch's position."""

    per_token = True
    REACH = 3  # patches to each side that a patch depends on

    centres: Tensor

    def __init__(self, config: ModelConfig, spec: DataSpec):
        super().__init__(config, spec)
        self.side = math.isqrt(config.tokens)
        channels, w = config.context * config.dim, config.width
        self.register_buffer("centres", patch_centres(config.tokens), persistent=False)
        self.conv = nn.Conv2d(channels, w, 2 * self.REACH + 1, padding=self.REACH)
        # ReLU, because GELU would take half of the time for this many patches.
        self.condition = nn.Sequential(
            nn.Linear(self.condition_dim + 2, w), nn.ReLU(), nn.Linear(w, 2 * w)
        )
        self.blocks = nn.Sequential(*(ResidualBlock(w, relu=True) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(w)
        self.next_z = nn.Linear(w, config.dim)
        self.next_proprio = nn.Linear(w, self.proprio_dim)

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        side = math.isqrt(config.tokens)
        if side < 2 or side**2 != config.tokens:
            raise UserError(
                f"the predictor 'local' needs a square number of latent tokens, one for each "
                f"patch, not {config.tokens}"
            )

    def forward(self, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        image = z.transpose(2, 3).flatten(1, 2).unflatten(-1, (self.side, self.side))
        features = self.conv(image).flatten(2).transpose(1, 2)  # [B, P, W]
        centres = self.centres.expand(z.shape[0], -1, -1)
        condition = condition.unsqueeze(1).expand(-1, centres.shape[1], -1)
        scale, shift = self.condition(torch.cat([condition, centres], -1)).chunk(2, -1)
        x = self.norm(self.blocks(features * (1 + scale) + shift))
        return self.next_z(x), self.next_proprio(x.sum(1) / self.side)
