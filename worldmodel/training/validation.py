"""Measurements of a world model on held-out clips."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.models.decoder import Decoder
from worldmodel.models.world_model import WorldModel, random_distance
from worldmodel.training.losses import normalised_proprio

Array = NDArray[Any]


@torch.no_grad()
def held_out_errors(
    model: WorldModel, z: Tensor, proprio: Tensor, actions: Tensor
) -> dict[str, list[float]]:
    """Errors 1, 2, ... model steps after the context frames; see `worldmodel.training.trainer`.

    Args:
        model: predicts the frames after the context.
        z: latents of clips ``[B, J, P, D]``.
        proprio: ``[B, J, Dp]``.
        actions: between the frames, ``[B, J-1, F*A]``.
    """
    k = model.config.context
    future = actions[:, None, k - 1 :]
    predicted = model.rollout(z[:, :k], proprio[:, :k], actions[:, : k - 1], future)
    target = z[:, k:]
    spread = (target - target.mean((0, 1))).square().mean()
    error = (predicted.z[:, 0] - target).square().mean((0, 2, 3)) / spread
    copied = (z[:, k - 1 : k] - target).square().mean((0, 2, 3)) / spread
    distance = model.distance(predicted.z[:, 0], target).mean(0)
    apart = random_distance(model, target).clamp_min(1e-9) / 2
    proprio_error = normalised_proprio(model, predicted.proprio[:, 0])
    proprio_error = (proprio_error - normalised_proprio(model, proprio[:, k:])).square()
    return {
        "val_error": [round(float(x), 5) for x in error],
        "val_copy": [round(float(x), 5) for x in copied],
        "val_distance": [round(float(x), 5) for x in distance / apart],
        "val_proprio": [round(float(x), 5) for x in proprio_error.mean((0, 2))],
    }


@torch.no_grad()
def imagined_picture(
    model: WorldModel, decoder: Decoder, z: Tensor, proprio: Tensor, actions: Tensor
) -> Array:
    """Clips in one picture, uint8 ``[2 B side, T side, 3]``: for each a row of the frames after the
    context, drawn from their latents, and a row of what the model imagines in their place.

    Args:
        model: predicts the frames after the context.
        decoder: draws latents.
        z, proprio, actions: of clips, as in `held_out_errors`.
    """
    k = model.config.context
    future = actions[:, None, k - 1 :]
    imagined = model.rollout(z[:, :k], proprio[:, :k], actions[:, : k - 1], future).z[:, 0]
    rows = decoder.paint(torch.stack([z[:, k:], imagined], 1).flatten(0, 1).float())
    count, steps, side = rows.shape[:3]
    return rows.swapaxes(1, 2).reshape(count * side, steps * side, 3)


def error_sentence(errors: dict[str, list[float]]) -> str:
    """A sentence about held-out errors."""
    error, copied, proprio = (errors[f"val_{name}"] for name in ("error", "copy", "proprio"))
    return (
        f"held-out error {error[0]:.3f} of spread one step ahead (no change: {copied[0]:.3f}), "
        f"{error[-1]:.3f} at {len(error)} steps ({copied[-1]:.3f}); proprio {proprio[0]:.3f} to "
        f"{proprio[-1]:.3f}"
    )


@torch.no_grad()
def readable_share(model: WorldModel, z: Tensor, proprio: Tensor) -> tuple[float, ...]:
    """Share of the variance of each channel of proprioception ``[B, Dp]`` that the model reads off
    single frames' latents ``[B, P, D]``."""
    missed = (model.read_proprio(z) - proprio).square().mean(0) / proprio.var(0).clamp_min(1e-12)
    return tuple(round(float(x), 3) for x in (1 - missed).clamp(0, 1))
