"""Encoder and world model as the agent runs them: frozen, in bfloat16 where that is fast."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from planners import Trajectory
from worldmodel.cli.device import has_bfloat16
from worldmodel.control.memory import Context
from worldmodel.models.world_model import WorldModel

if TYPE_CHECKING:
    from worldmodel.encoders.encoder import Encoder


class Inference:
    """A frozen copy of a world model, and its encoder.

    Args:
        model: on the device that computes.
        encoder: the encoder that `model` was trained with.
        bfloat16: whether the model runs in bfloat16; None: where the device supports it.
    """

    def __init__(self, model: WorldModel, encoder: Encoder, bfloat16: bool | None) -> None:
        self.encoder = encoder
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.device = self.model.action_low.device
        self.bfloat16 = has_bfloat16(self.device) if bfloat16 is None else bfloat16
        if self.bfloat16:
            # Autocast would cast frozen weights anew on every call; cast them once.
            for layer in self.model.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    layer.bfloat16()

    @torch.no_grad()
    def encode(self, pixels: NDArray[Any]) -> Tensor:
        """Latents ``[E, P, D]`` of uint8 ``[E, H, W, 3]``."""
        tokens = self.encoder.encode(torch.from_numpy(np.array(pixels)))
        with self._precision():
            return self.model.encode(tokens.to(self.device))

    @torch.no_grad()
    def read_proprio(self, z: Tensor) -> Tensor:
        """Proprio ``[E, Dp]`` read off latents ``[E, P, D]``."""
        with self._precision():
            return self.model.read_proprio(z)

    def rollout(self, context: Context, actions: Tensor) -> Trajectory:
        """Predicted trajectory under actions ``[E, S, T, F*A]``."""
        with self._precision():
            return Trajectory(*self.model.rollout(*context, actions))

    def samples_in(self, megabytes: float, episodes: int, horizon: int) -> int:
        """How many samples of each of so many episodes can be rolled out in so much memory."""
        c = self.model.config
        # A layer holds about eight times its width at once, in 4 bytes each; twice that is safe.
        sample = 64 * c.tokens * c.width + 16 * horizon * c.tokens * c.dim
        return max(1, int(1e6 * megabytes / (sample * episodes)))

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)
