"""Loss terms of a world model: prediction errors, and terms that keep latents informative."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.world_model import WorldModel, random_distance
from worldmodel.training.config import LossConfig

Terms = dict[str, Tensor]


class LatentHeads(nn.Module):
    """Networks that only training needs: they reconstruct tokens from latents, infer actions, and
    predict the next latents."""

    def __init__(self, config: ModelConfig, spec: DataSpec, components: int = 12) -> None:
        """`components`: leading numbers of each reduced token that are reconstructed."""
        super().__init__()
        self.components = components = min(components, spec.token_dim)
        latent = config.tokens * config.dim
        actions = config.frameskip * len(spec.action_low)
        self.decoder = nn.Sequential(
            nn.Linear(latent, 512),
            nn.ReLU(),
            nn.Linear(512, 1024),
            nn.ReLU(),
            nn.Linear(1024, spec.num_tokens * components),
        )
        self.inverse = nn.Sequential(nn.Linear(2 * latent, 512), nn.ReLU(), nn.Linear(512, actions))
        self.change = nn.Sequential(
            nn.Linear(latent + actions, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, latent),
        )


def distort(reduced: Tensor, noise: float, masked: float, generator: torch.Generator) -> Tensor:
    """Reduced tokens ``[B, J, N, R]`` with noise, and some patches set to their mean, zero.

    All frames have the same noise level. If each clip had its own, the contrast could find the
    frames of a clip by their level.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    local = torch.Generator(reduced.device).manual_seed(seed)

    def random(draw: Callable[..., Tensor], *shape: int) -> Tensor:
        return draw(*shape, generator=local, device=reduced.device, dtype=reduced.dtype)

    noisy = reduced + noise * random(torch.randn, *reduced.shape)
    kept = random(torch.rand, *reduced.shape[:-1]) >= masked
    return noisy * kept.unsqueeze(-1)


def displace(z: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Latents of clips ``[B, J, P, D]`` with errors: to each is added the change in one model step
    of a random clip, times a random number of 0 to `largest`.

    A predictor's own predictions have errors, too. And with new errors each time, it cannot
    remember the clips.
    """
    clips, frames = z.shape[:2]
    share = largest * torch.rand(clips, 1, 1, 1, generator=generator).to(z.device)
    other = torch.randint(clips, (clips, frames), generator=generator)
    start = torch.randint(frames - 1, (clips, frames), generator=generator)
    other, start = other.to(z.device), start.to(z.device)
    return z + share * (z[other, start + 1] - z[other, start])


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
    context: Tensor | None = None,
    readable: int | None = None,
) -> Terms:
    """Errors of predictions `steps` model steps ahead: the first from the given context (teacher
    forcing), each further one from the predictions before it.

    Args:
        z: latents of clips ``[B, J, P, D]``.
        proprio: proprioception ``[B, J, Dp]``.
        actions: between the frames, ``[B, J-1, F*A]``.
        context: latents ``[B, K, P, D]`` to predict from; those of `z` by default.
        readable: leading frames of which proprioception is read off; all by default.
    """
    k = model.config.context
    spread = z.flatten(0, 1).var(0).mean()
    apart = random_distance(model, z).clamp_min(1e-9) / 2  # the same in the model's own distance
    context_z, context_proprio = z[:, :k] if context is None else context, proprio[:, :k]
    errors, distances, proprio_errors = [], [], []
    for t in range(steps):
        window = actions[:, t : t + k]
        next_z, next_proprio = model.predict(context_z, context_proprio, window)
        errors.append(F.mse_loss(next_z, z[:, k + t]) / spread)
        distances.append(model.distance(next_z, z[:, k + t]).mean() / apart)
        target = normalised_proprio(model, proprio[:, k + t])
        proprio_errors.append(F.mse_loss(normalised_proprio(model, next_proprio), target))
        context_z = torch.cat([context_z[:, 1:], next_z.unsqueeze(1)], 1)
        context_proprio = torch.cat([context_proprio[:, 1:], next_proprio.unsqueeze(1)], 1)
    z, proprio = z[:, :readable], proprio[:, :readable]
    read = normalised_proprio(model, model.read_proprio(z))
    return {
        "predict": torch.stack(errors).mean(),
        "distance": torch.stack(distances).mean(),
        "proprio": torch.stack(proprio_errors).mean(),
        "read_proprio": log_error(read, normalised_proprio(model, proprio)),
    }


def latent_terms(
    model: WorldModel,
    heads: LatentHeads,
    z: Tensor,
    reduced: Tensor,
    proprio: Tensor,
    actions: Tensor,
    steps: int,
) -> Terms:
    """How well latents ``z [B, J, P, D]`` determine reduced tokens ``[B, J, N, R]``, proprio
    ``[B, J, Dp]`` and actions ``[B, J-1, F*A]``, and with these the latents of the next `steps`
    frames."""
    flat = z.flatten(2)
    decoded = heads.decoder(flat[:, ::4]).float()  # neighbouring frames differ little
    target = reduced[:, ::4, :, : heads.components].flatten(2).float()
    inferred = heads.inverse(torch.cat([flat[:, :-1], flat[:, 1:]], -1)).float()
    taken = math.sqrt(3) * model.normalised_actions(actions)  # uniform actions get variance 1
    read = normalised_proprio(model, model.read_proprio(z))
    return {
        "forward": forward_error(heads, flat, taken, steps),
        "reconstruct": F.mse_loss(decoded, target),
        "inverse": F.mse_loss(inferred, taken),
        "read_proprio": log_error(read, normalised_proprio(model, proprio)),
    }


def forward_error(heads: LatentHeads, z: Tensor, actions: Tensor, steps: int) -> Tensor:
    """Error of the forward model, 1 to `steps` steps ahead, from latents ``z [B, J, P*D]``."""
    # Relative to their spread, or latents would become predictable by shrinking.
    spread = z.flatten(0, 1).var(0).mean()
    count = z.shape[1] - steps
    predicted, errors = z[:, :count], []
    for t in range(steps):
        action = actions[:, t : t + count]
        predicted = predicted + heads.change(torch.cat([predicted, action], -1)).float()
        errors.append(F.mse_loss(predicted, z[:, t + 1 : t + 1 + count]) / spread)
    return torch.stack(errors).mean()


def temporal_contrast(
    z: Tensor, ids: Tensor, generator: torch.Generator, heavy_tail: bool = True
) -> Tensor:
    """InfoNCE (van den Oord et al. 2018): each frame has to find another frame of its clip among
    all frames of the batch, by its latent distance.

    Frames that are few steps apart get near and all others far, so a distance grows with the time
    between two frames (Eysenbach et al. 2022). Frames of the same clip are the hard negatives: they
    show the same objects in slightly other poses.

    Args:
        z: latents of clips ``[B, J, P, D]``.
        ids: a number for each frame ``[B, J]``; equal numbers are the same frame.
        generator: chooses the frame to find, on the CPU. Offsets in time are log-uniform.
        heavy_tail: use a Cauchy kernel of the distance (Boehm et al. 2023), which keeps distances
            of far frames in order; else an exponential one, which pushes all of them far away, and
            so finds differences that are hard to see.
    """
    clips, frames = ids.shape
    offset = (torch.rand(clips, frames, generator=generator) * math.log(frames)).exp().long()
    sign = 1 - 2 * torch.randint(2, (clips, frames), generator=generator)
    here = torch.arange(frames)
    there = here + sign * offset
    there = torch.where((there < 0) | (there >= frames), here - sign * offset, there)
    there = there.clamp(0, frames - 1).to(ids.device)
    positive = (torch.arange(clips, device=ids.device)[:, None] * frames + there).flatten()
    flat, number = z.flatten(2).flatten(0, 1).float(), ids.flatten()
    norm = flat.square().sum(-1)
    distance = (norm[:, None] + norm[None] - 2 * flat @ flat.T).clamp_min(0)
    logits = -torch.log1p(distance) if heavy_tail else -2 * (distance + 1e-4).sqrt()
    logits = logits.masked_fill(number[:, None] == number[None], -math.inf)
    valid = number[positive] != number  # the frame to find is not the frame itself, repeated
    return F.cross_entropy(logits[valid], positive[valid])


def log_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Half the logarithm of the mean squared error of each number ``[..., D]``, averaged: the
    negative log-likelihood of Gaussians with the variance of the errors (Kendall et al. 2018).
    Positions, which one frame shows exactly, are not drowned by velocities, which it does not."""
    error = (predicted - target).square().flatten(0, -2).mean(0)
    return 0.5 * (error + 1e-5).log().mean()


def normalised_proprio(model: WorldModel, proprio: Tensor) -> Tensor:
    """Proprioception ``[..., Dp]`` with mean 0 and variance 1 over the data."""
    return (proprio - model.proprio_mean) / model.proprio_std
