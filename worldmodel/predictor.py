"""The world model: frozen patch tokens in, imagined latents out.

    tokens [B, N, C] --projector--> z [B, P, D] --predictor (actions, proprio)--> next z, proprio

The encoder's tokens are projected to few latents, so that imagining is cheap: planning cost is
proportional to the number of tokens. The projector is trained together with the predictor, and kept
from collapsing by reconstructing the frozen tokens and by the variance and covariance terms of
VICReg (Bardes et al. 2022). The predictor is a transformer over latent tokens; its context frames
are stacked in channels, and actions and proprio enter through AdaLN (Peebles and Xie 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the world model.

    Attributes:
        tokens: latent tokens of one frame, P.
        dim: channels of one latent token, D.
        width: width of the predictor's transformer.
        depth: blocks of the predictor's transformer.
        heads: attention heads.
        context: frames the predictor sees, K.
        frameskip: primitive actions per model step, F.
    """

    tokens: int = 4
    dim: int = 32
    width: int = 192
    depth: int = 4
    heads: int = 4
    context: int = 3
    frameskip: int = 5


@dataclass(frozen=True)
class DataSpec:
    """What the world model is fed: read off the dataset and the encoder, stored in checkpoints.

    Statistics are over all recorded frames, in the env's own units.
    """

    num_tokens: int
    token_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    proprio_mean: tuple[float, ...]
    proprio_std: tuple[float, ...]


class Imagined(NamedTuple):
    """Imagined future: ``z [..., T, P, D]`` and ``proprio [..., T, Dp]`` in the env's units."""

    z: Tensor
    proprio: Tensor


class Projector(nn.Module):
    """Patch tokens ``[B, N, C]`` to latents ``[B, P, D]``: each patch is narrowed by the same
    linear map, then all of them are mixed, so that a latent may depend on the whole image."""

    def __init__(self, spec: DataSpec, config: ModelConfig, narrow: int = 32, hidden: int = 1024):
        super().__init__()
        self.shape = (config.tokens, config.dim)
        self.narrow = nn.Linear(spec.token_dim, narrow)
        self.mix = nn.Sequential(
            nn.LayerNorm(spec.num_tokens * narrow),
            nn.Linear(spec.num_tokens * narrow, hidden),
            nn.GELU(approximate="tanh"),
            nn.Linear(hidden, hidden // 2),
            nn.GELU(approximate="tanh"),
            nn.Linear(hidden // 2, config.tokens * config.dim),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mix(self.narrow(tokens).flatten(-2)).unflatten(-1, self.shape).float()


class Block(nn.Module):
    """A transformer block modulated by a condition ``[B, W]`` (AdaLN)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        # Small rather than zero: the action has a say from the first step (jepa-wms study, 2025).
        nn.init.normal_(self.modulation.weight, std=0.02)
        nn.init.zeros_(self.modulation.bias)
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        parts = self.modulation(condition).unsqueeze(1).chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        y = self.norm1(x) * (1 + scale1) + shift1
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(y).chunk(3, -1)
        )
        # Plain products: for so few tokens they beat PyTorch's fused attention on a CPU.
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).to(v.dtype)
        y = (weights @ v).transpose(1, 2).flatten(-2)
        x = x + (1 + gate1) * self.out(y)
        y = self.norm2(x) * (1 + scale2) + shift2
        return x + (1 + gate2) * self.mlp(y)


class WorldModel(nn.Module):
    """Projector, predictor and the small heads that train them.

    Actions and proprio are given in the env's units and normalised inside.
    """

    action_low: Tensor
    action_high: Tensor
    proprio_mean: Tensor
    proprio_std: Tensor

    def __init__(self, config: ModelConfig, spec: DataSpec):
        super().__init__()
        self.config, self.spec = config, spec
        for name in ("action_low", "action_high", "proprio_mean", "proprio_std"):
            self.register_buffer(name, torch.tensor(getattr(spec, name)), persistent=False)
        k, p, d, w = config.context, config.tokens, config.dim, config.width
        actions = k * config.frameskip * len(spec.action_low)
        proprio = len(spec.proprio_mean)
        self.projector = Projector(spec, config)
        self.embed = nn.Linear(k * d, w)
        self.positions = nn.Parameter(0.02 * torch.randn(p, w))
        self.condition = nn.Sequential(
            nn.Linear(actions + k * proprio, w), nn.SiLU(), nn.Linear(w, w), nn.SiLU()
        )
        self.blocks = nn.ModuleList(Block(w, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(w)
        self.next_z = nn.Linear(w, d)
        self.next_proprio = nn.Linear(p * w, proprio)
        # Reads proprio off the latents of one frame, so that a goal image says where the robot is.
        self.proprio_head = nn.Sequential(
            nn.Linear(p * d, w), nn.GELU(approximate="tanh"), nn.Linear(w, proprio)
        )
        for layer in (self.next_z, self.next_proprio):  # start from "nothing moves"
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def project(self, tokens: Tensor) -> Tensor:
        """Latents ``z [..., P, D]`` of the encoder's patch tokens ``[..., N, C]``."""
        return self.projector(tokens)

    def read_proprio(self, z: Tensor) -> Tensor:
        """Proprio ``[..., Dp]``, env units, as seen in the latents ``z [..., P, D]``."""
        return self.proprio_head(z.flatten(-2)).float() * self.proprio_std + self.proprio_mean

    def predict(self, z: Tensor, proprio: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """One model step.

        Args:
            z: latents of the context frames, oldest first, ``[B, K, P, D]``.
            proprio: of the same frames, env units, ``[B, K, Dp]``.
            actions: taken at each context frame, the last one to be imagined, ``[B, K, F*A]``.

        Returns:
            Next latents ``[B, P, D]`` and next proprio ``[B, Dp]``.
        """
        low, high = (t.repeat(self.config.frameskip) for t in (self.action_low, self.action_high))
        action = (2 * actions - low - high) / (high - low)
        measured = (proprio - self.proprio_mean) / self.proprio_std
        condition = self.condition(torch.cat([action.flatten(1), measured.flatten(1)], -1))
        x = self.embed(z.transpose(1, 2).flatten(2)) + self.positions
        for block in self.blocks:
            x = block(x, condition)
        x = self.norm(x)
        delta = self.next_proprio(x.flatten(1)).float()
        return z[:, -1] + self.next_z(x).float(), proprio[:, -1] + delta * self.proprio_std

    def rollout(self, z: Tensor, proprio: Tensor, past: Tensor, actions: Tensor) -> Imagined:
        """Imagine the future under candidate actions.

        Args:
            z: latents of the context frames, ``[E, K, P, D]``: encoded once, shared by all samples.
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
        sequence = torch.cat([tile(past), actions.flatten(0, 1)], dim=1)
        imagined_z, imagined_proprio = [], []
        for t in range(horizon):
            next_z, next_proprio = self.predict(z, proprio, sequence[:, t : t + k])
            z = torch.cat([z[:, 1:], next_z.unsqueeze(1)], 1)
            proprio = torch.cat([proprio[:, 1:], next_proprio.unsqueeze(1)], 1)
            imagined_z.append(next_z)
            imagined_proprio.append(next_proprio)
        shape = (episodes, samples)
        return Imagined(
            torch.stack(imagined_z, 1).unflatten(0, shape),
            torch.stack(imagined_proprio, 1).unflatten(0, shape),
        )
