"""Principal components of patch tokens as latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldmodel.errors import UserError
from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.registry import REPRESENTATIONS
from worldmodel.models.representations import Representation

if TYPE_CHECKING:
    from worldmodel.data.logs import Logs

FRAMES = 1024  # that components are fitted to


class LinearPatches(Representation):
    """One linear map from each patch token to its latent token: ``(token - mean) @ basis``."""

    fixed = True
    mean: Tensor
    basis: Tensor

    def __init__(self, config: ModelConfig, spec: DataSpec):
        super().__init__(config, spec)
        if config.tokens != spec.num_tokens or config.dim > spec.token_dim:
            raise UserError(
                f"{config.representation} needs {spec.num_tokens} latent tokens (one for each "
                f"patch) of dim at most {spec.token_dim}, not {config.tokens} of {config.dim}"
            )
        self.register_buffer("mean", torch.zeros(spec.token_dim))
        self.register_buffer("basis", torch.zeros(spec.token_dim, config.dim))

    @property
    def fitted(self) -> bool:
        return bool(self.basis.any())

    def fit(self, logs: Logs) -> None:
        self.fit_frames(*logs.random_frames(FRAMES))

    def fit_frames(self, tokens: Tensor, pixels: Tensor) -> None:
        """Set the map from tokens ``[M, N, C]`` and `pixels` ``[M, H, W, 3]`` of some frames."""
        raise NotImplementedError

    def encode(self, tokens: Tensor) -> Tensor:
        return ((tokens - self.mean) @ self.basis).float()


@REPRESENTATIONS.register("principal_components")
class PrincipalComponents(LinearPatches):
    """The leading principal components of each patch token.

    A distance between such latents is that between the tokens, up to the discarded components: it
    compares images patch by patch.
    """

    def fit_frames(self, tokens: Tensor, pixels: Tensor) -> None:
        """Compute the components of the tokens; the pixels are not used."""
        self.mean.copy_(tokens.mean((0, 1)))
        varying = tokens - tokens.mean(0)  # leave out what depends only on the patch's position
        axes = principal_axes(varying.flatten(0, 1), self.basis.shape[1])
        self.basis.copy_(axes / (varying @ axes).std().clamp_min(1e-6))


def principal_axes(vectors: Tensor, count: int) -> Tensor:
    """The `count` leading principal axes ``[C, count]`` of `vectors` ``[M, C]``, in ascending order
    of variance."""
    exact = vectors.cpu().double()  # not every device has float64
    centred = exact - exact.mean(0)
    axes = torch.linalg.eigh(centred.T @ centred)[1][:, -count:]
    return axes.float().to(vectors.device)
