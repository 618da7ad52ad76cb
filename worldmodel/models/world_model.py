"""The world model: patch tokens of a frozen encoder in, imagined latents out.

    tokens [B, N, C] -representation-> z [B, P, D] -predictor (actions, proprio)-> next z, proprio

The representation reduces the encoder's tokens to few latents, so that rollouts are cheap: planning
cost is proportional to the number of latent tokens. Both parts are chosen by name: see `registry`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.registry import PREDICTORS, REPRESENTATIONS

NEAR = 0.02  # of the mean squared distance between random frames


class Imagined(NamedTuple):
    """A predicted future: ``z [..., T, P, D]`` and ``proprio [..., T, Dp]`` in the env's units."""

    z: Tensor
    proprio: Tensor


class WorldModel(nn.Module):
    """Representation, predictor, and a head that reads proprioception off latents.

    Actions and proprioception are in the env's units; the model normalises them.
    """

    action_low: Tensor
    action_high: Tensor
    proprio_mean: Tensor
    proprio_std: Tensor

    def __init__(self, config: ModelConfig, spec: DataSpec):
        super().__init__()
        if config.frameskip < 1:
            raise ValueError(f"frameskip is {config.frameskip}: training measures it, or give it")
        self.config, self.spec = config, spec
        for name in ("action_low", "action_high", "proprio_mean", "proprio_std"):
            self.register_buffer(name, torch.tensor(getattr(spec, name)), persistent=False)
        self.representation = REPRESENTATIONS[config.representation](config, spec)
        self.predictor = PREDICTORS[config.predictor](config, spec)
        size, width, proprio = config.tokens * config.dim, config.width, len(spec.proprio_mean)
        # Reads proprioception off one frame, so that a goal image gives the robot's goal too.
        self.proprio_head = nn.Sequential(
            nn.Linear(size, width), nn.GELU(approximate="tanh"), nn.Linear(width, proprio)
        )
        # The initial prediction is that nothing changes.
        for layer in (self.predictor.next_z, self.predictor.next_proprio):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def encode(self, tokens: Tensor) -> Tensor:
        """Latents ``z [..., P, D]`` of the encoder's patch tokens ``[..., N, C]``."""
        return self.representation.encode(tokens)

    def distance(self, z: Tensor, other: Tensor) -> Tensor:
        """Squared distance ``[...]`` of latents ``[..., P, D]``: see the representation."""
        return self.representation.distance(z, other)

    def read_proprio(self, z: Tensor) -> Tensor:
        """Proprioception ``[..., Dp]``, env units, read off latents ``z [..., P, D]``."""
        return self.proprio_head(z.flatten(-2)).float() * self.proprio_std + self.proprio_mean

    def normalised_actions(self, actions: Tensor) -> Tensor:
        """Actions of one or several steps ``[..., n*A]``, scaled to bounds of -1 and 1."""
        times = actions.shape[-1] // len(self.action_low)
        low, high = self.action_low.repeat(times), self.action_high.repeat(times)
        return (2 * actions - low - high) / (high - low)

    def predict(self, z: Tensor, proprio: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """One model step.

        Args:
            z: latents of the context frames, oldest first, ``[B, K, P, D]``.
            proprio: of the same frames, env units, ``[B, K, Dp]``.
            actions: from each context frame on, ``[B, K, F*A]``; the last leads to the next frame.

        Returns:
            Next latents ``[B, P, D]`` and next proprio ``[B, Dp]``.
        """
        return self._predict(z, proprio, self.normalised_actions(actions))

    def _predict(self, z: Tensor, proprio: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """`predict` for normalised actions."""
        normalised = (proprio - self.proprio_mean) / self.proprio_std
        condition = torch.cat([action.flatten(1), normalised.flatten(1)], -1)
        change, proprio_change = self.predictor(z, condition)
        next_proprio = proprio[:, -1] + proprio_change.float() * self.proprio_std
        return z[:, -1] + change.float(), next_proprio

    def rollout(self, z: Tensor, proprio: Tensor, past: Tensor, actions: Tensor) -> Imagined:
        """Predict the future under candidate actions.

        Args:
            z: latents of the context frames, ``[E, K, P, D]``: shared by all samples.
            proprio: of the same frames, ``[E, K, Dp]``.
            past: actions between the context frames, ``[E, K-1, F*A]``.
            actions: candidates, ``[E, S, T, F*A]``.

        Returns:
            ``z [E, S, T, P, D]`` and ``proprio [E, S, T, Dp]``.
        """
        episodes, samples, horizon = actions.shape[:3]
        k = self.config.context

        def tile(t: Tensor) -> Tensor:
            return t.unsqueeze(1).expand(-1, samples, *t.shape[1:]).flatten(0, 1)

        z, proprio = tile(z), tile(proprio)
        sequence = self.normalised_actions(torch.cat([tile(past), actions.flatten(0, 1)], dim=1))
        imagined_z, imagined_proprio = [], []
        for t in range(horizon):
            next_z, next_proprio = self._predict(z, proprio, sequence[:, t : t + k])
            z = torch.cat([z[:, 1:], next_z.unsqueeze(1)], 1)
            proprio = torch.cat([proprio[:, 1:], next_proprio.unsqueeze(1)], 1)
            imagined_z.append(next_z)
            imagined_proprio.append(next_proprio)
        shape = (episodes, samples)
        return Imagined(
            torch.stack(imagined_z, 1).unflatten(0, shape),
            torch.stack(imagined_proprio, 1).unflatten(0, shape),
        )


def random_distance(model: WorldModel, z: Tensor) -> Tensor:
    """The mean squared distance of random frames: of latents ``z [M, ..., P, D]``, at least two,
    each with those half of the batch away."""
    return model.distance(z, z.roll(max(1, len(z) // 2), 0)).mean()


def near_distance(model: WorldModel, z: Tensor) -> float:
    """The squared distance that counts as near in these latents ``z [M, P, D]`` of random frames:
    a fiftieth of their mean squared distance."""
    return float(f"{NEAR * float(random_distance(model, z)):.4g}")
