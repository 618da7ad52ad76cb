"""The programs of an export: encoder, predictor and distance, as `torch.export` takes them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldmodel.encoders.encoder import Encoder
from worldmodel.models.checkpoint import CheckpointInfo
from worldmodel.models.world_model import WorldModel

Values = tuple[Tensor, ...]
Function = Callable[..., Tensor | Values]


class EncoderProgram(nn.Module):
    """Images uint8 ``[B, H, W, 3]`` to latents ``[B, P, D]``."""

    def __init__(self, model: WorldModel, encoder: Encoder):
        super().__init__()
        self.encoder, self.representation = encoder, model.representation

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.encoder(pixels)
        with precision(self.encoder.autocast, tokens.device):
            return self.representation.encode(tokens)


class PredictorProgram(nn.Module):
    """`WorldModel.rollout` with one context for each candidate, which makes one batch."""

    def __init__(self, model: WorldModel, autocast: bool):
        super().__init__()
        self.autocast = autocast
        self.model = copy.deepcopy(model)
        del self.model.representation, self.model.proprio_head  # not used, so not saved

    def forward(self, z: Tensor, proprio: Tensor, past: Tensor, actions: Tensor) -> Values:
        with precision(self.autocast, z.device):
            imagined = self.model.rollout(z, proprio, past, actions.unsqueeze(1))
        return imagined.z.squeeze(1), imagined.proprio.squeeze(1)


class DistanceProgram(nn.Module):
    """`WorldModel.distance` of latents ``[B, P, D]`` to those of one goal ``[1, P, D]``."""

    def __init__(self, model: WorldModel):
        super().__init__()
        self.model = copy.deepcopy(model)
        del self.model.predictor, self.model.proprio_head
        for name, _ in list(self.model.representation.named_children()):
            delattr(self.model.representation, name)  # distances use buffers only

    def forward(self, z: Tensor, goal: Tensor) -> Tensor:
        return self.model.distance(z, goal)


def precision(autocast: bool, device: torch.device) -> torch.autocast:
    """bfloat16, as the agent computes, or float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=autocast)


class Port(NamedTuple):
    """An input or output of a program; the first dimension may be "B", the batch size."""

    name: str
    shape: tuple[int | str, ...]
    meaning: str
    dtype: str = "float32"


@dataclass(frozen=True)
class Program:
    """A program: `module` is written to a file, `eager` is the package's own computation."""

    name: str
    module: nn.Module
    eager: Function
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def programs(
    model: WorldModel, encoder: Encoder, info: CheckpointInfo, horizon: int
) -> list[Program]:
    """Encoder, predictor and distance, on the model's device and in the encoder's precision."""
    c, k, autocast = model.config, model.config.context, encoder.autocast
    latents, numbers = (c.tokens, c.dim), len(info.spec.proprio_mean)
    width, side = c.frameskip * len(info.spec.action_low), info.image_size
    device = model.action_low.device

    def encode(pixels: Tensor) -> Tensor:
        tokens = encoder.encode(pixels)
        with precision(autocast, device):
            return model.encode(tokens)

    def rollout(z: Tensor, proprio: Tensor, past: Tensor, actions: Tensor) -> Values:
        with precision(autocast, device):
            imagined = model.rollout(z, proprio, past, actions[:, None])
        return tuple(part[:, 0] for part in imagined)

    z = Port("z", ("B", *latents), "latents of an image")
    one_goal = Port("goal", (1, *latents), "latents of the goal image")
    images = Port("pixels", ("B", side, side, 3), "camera images, RGB from 0 to 255", "uint8")
    context = (
        Port("z", ("B", k, *latents), "latents of the context frames, the latest last"),
        Port("proprio", ("B", k, numbers), "proprioception at these frames"),
        Port("past", ("B", k - 1, width), "actions between these frames"),
        Port("actions", ("B", horizon, width), "candidate actions after them"),
    )
    future = (
        Port("imagined_z", ("B", horizon, *latents), "latents after 1, 2, ... model steps"),
        Port("imagined_proprio", ("B", horizon, numbers), "proprioception at these steps"),
    )
    distance = Port("distance", ("B",), "squared distance")
    return [
        Program("encoder", EncoderProgram(model, encoder), encode, (images,), (z,)),
        Program("predictor", PredictorProgram(model, autocast), rollout, context, future),
        Program("distance", DistanceProgram(model), model.distance, (z, one_goal), (distance,)),
    ]
