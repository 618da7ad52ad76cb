"""Loss terms of a world model: prediction errors, and terms that keep latents informative."""

from __future__ import annotations

import math
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.principal_components import principal_axes
from worldmodel.models.world_model import WorldModel
from worldmodel.training.config import LossConfig

Terms = dict[str, Tensor]


class LatentHeads(nn.Module):
    """Networks that only training needs: they reconstruct tokens and infer actions from latents."""

    basis: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, config: ModelConfig, spec: DataSpec, sample: Tensor) -> None:
        """`sample`: tokens of some frames ``[M, N, C]``, for their principal components."""
        super().__init__()
        channels = min(12, spec.token_dim)
        basis = principal_axes(sample.flatten(0, 1), channels)
        target = (sample - sample.mean(0)) @ basis
        self.register_buffer("basis", basis)
        self.register_buffer("mean", sample.mean(0))
        self.register_buffer("scale", target.std().clamp_min(1e-6))
        latent = config.tokens * config.dim
        actions = config.frameskip * len(spec.action_low)
        self.decoder = nn.Sequential(
            nn.Linear(latent, 512),
            nn.GELU(approximate="tanh"),
            nn.Linear(512, 1024),
            nn.GELU(approximate="tanh"),
            nn.Linear(1024, spec.num_tokens * channels),
        )
        self.inverse = nn.Sequential(
            nn.Linear(2 * latent, 512), nn.GELU(approximate="tanh"), nn.Linear(512, actions)
        )

    def target(self, tokens: Tensor) -> Tensor:
        """Scaled principal components ``[..., N * channels]`` of tokens ``[..., N, C]``."""
        return ((tokens @ self.basis - self.mean @ self.basis) / self.scale).flatten(-2)


def weighted_sum(config: LossConfig, terms: Terms) -> Tensor:
    """The loss."""
    weights = {**asdict(config), "predict": 1.0}
    return sum((weights[name] * term for name, term in terms.items()), torch.zeros(()))


def prediction_terms(
    model: WorldModel,
    z: Tensor,
    proprio: Tensor,
    actions: Tensor,
    steps: int,
    readable: int | None = None,
) -> Terms:
    """Errors of predictions `steps` model steps ahead: the first from the given context (teacher
    forcing), each further one from the predictions before it.

    Args:
        z: latents of clips ``[B, J, P, D]``.
        proprio: proprioception ``[B, J, Dp]``.
        actions: between the frames, ``[B, J-1, F*A]``.
        readable: leading frames of which proprioception is read off; all by default.
    """
    k = model.config.context
    # Relative to their spread, or latents would become predictable by shrinking.
    spread = z.flatten(0, 1).var(0).mean()
    context_z, context_proprio = z[:, :k], proprio[:, :k]
    errors, proprio_errors = [], []
    for t in range(steps):
        window = actions[:, t : t + k]
        next_z, next_proprio = model.predict(context_z, context_proprio, window)
        errors.append(F.mse_loss(next_z, z[:, k + t]) / spread)
        target = normalised_proprio(model, proprio[:, k + t])
        proprio_errors.append(F.mse_loss(normalised_proprio(model, next_proprio), target))
        context_z = torch.cat([context_z[:, 1:], next_z.unsqueeze(1)], 1)
        context_proprio = torch.cat([context_proprio[:, 1:], next_proprio.unsqueeze(1)], 1)
    z, proprio = z[:, :readable], proprio[:, :readable]
    read = normalised_proprio(model, model.read_proprio(z))
    return {
        "predict": torch.stack(errors).mean(),
        "proprio": torch.stack(proprio_errors).mean(),
        "read_proprio": F.mse_loss(read, normalised_proprio(model, proprio)),
    }


def latent_terms(
    model: WorldModel, heads: LatentHeads, z: Tensor, tokens: Tensor, actions: Tensor
) -> Terms:
    """How well latents ``z [B, J, P, D]`` determine tokens ``[B, J, N, C]`` and actions
    ``[B, J-1, F*A]``, and the variance and covariance terms of VICReg (Bardes et al. 2022)."""
    k = model.config.context
    latest = slice(k - 1, None)  # frames before the last context frame often repeat it
    flat = z[:, latest].flatten(2)
    decoded = heads.decoder(flat).float()
    target = heads.target(tokens[:, latest])
    inferred = heads.inverse(torch.cat([flat[:, :-1], flat[:, 1:]], -1)).float()
    scale = (model.action_high - model.action_low).repeat(model.config.frameskip)
    taken = actions[:, k - 1 :] / scale * math.sqrt(12)  # uniform actions get variance 1
    variance, covariance = vicreg_terms(flat.flatten(0, 1))
    return {
        "reconstruct": F.mse_loss(decoded, target),
        "inverse": F.mse_loss(inferred, taken),
        "variance": variance,
        "covariance": covariance,
    }


def vicreg_terms(z: Tensor) -> tuple[Tensor, Tensor]:
    """VICReg's variance and covariance terms of latents ``[M, D]``."""
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(centred) - 1)
    spread = (covariance.diagonal() + 1e-4).sqrt()
    off_diagonal = covariance - torch.diag_embed(covariance.diagonal())
    return F.relu(1 - spread).mean(), off_diagonal.square().sum() / len(covariance)


def normalised_proprio(model: WorldModel, proprio: Tensor) -> Tensor:
    """Proprioception ``[..., Dp]`` with mean 0 and variance 1 over the data."""
    return (proprio - model.proprio_mean) / model.proprio_std
