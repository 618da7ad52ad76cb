"""Representations: how the encoder's patch tokens become latents, and how latents are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.image_decoder import ImageDecoder, PatchDecoder

if TYPE_CHECKING:
    from worldmodel.data.logs import Logs


class Representation(nn.Module):
    """Patch tokens of one frame ``[..., N, C]`` to latents ``[..., P, D]``.

    Attributes:
        fixed: `fit` sets all weights before training; else they are trained with the predictor.
    """

    fixed: bool = False

    def __init__(self, config: ModelConfig, spec: DataSpec):
        super().__init__()
        self.config, self.spec = config, spec

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """Raise a UserError if the sizes in `config` do not suit this representation."""

    @property
    def fitted(self) -> bool:
        """Whether `fit` has run, or need not."""
        return True

    def fit(self, logs: Logs) -> None:
        """Set the weights from logged frames, before training."""

    def encode(self, tokens: Tensor) -> Tensor:
        """Latents ``[..., P, D]`` of patch tokens ``[..., N, C]``."""
        return self.adapt(self.reduce(tokens))

    def reduce(self, tokens: Tensor) -> Tensor:
        """The part of `encode` that `fit` sets: smaller tokens ``[..., N, R]``. Training computes
        them once for all frames."""
        return tokens

    def adapt(self, reduced: Tensor) -> Tensor:
        """The part of `encode` that is trained: latents ``[..., P, D]`` of `reduce`'s tokens."""
        raise NotImplementedError

    def fit_distance(self, z: Tensor) -> None:
        """Fit what `distance` depends on to latents of recorded clips ``[B, J, P, D]``, once the
        latents are trained."""

    def distance(self, z: Tensor, other: Tensor) -> Tensor:
        """Squared distance ``[...]`` of latents ``[..., P, D]``: the mean over all channels."""
        return (z - other).square().mean((-2, -1))

    def decoder(self, side: int) -> ImageDecoder:
        """An untrained decoder of latents to square images of `side` pixels."""
        return PatchDecoder(self.config.tokens, self.config.dim, side)
