"""A distance of latents that means time: how many model steps lie between two frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.models.config import ModelConfig


class TemporalMetric(nn.Module):
    """Embeds latents so that Euclidean distance is the least number of model steps between frames
    (HILP: Park et al. 2024)."""

    def __init__(self, config: ModelConfig, width: int = 256):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(config.tokens * config.dim, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, config.metric),
        )

    def forward(self, z: Tensor, other: Tensor) -> Tensor:
        """Model steps ``[...]`` between latents ``[..., P, D]``."""
        offset = self.embed(z) - self.embed(other)
        steps: Tensor = (offset.square().sum(-1) + 1e-6).sqrt()
        return steps

    def embed(self, z: Tensor) -> Tensor:
        """Points ``[..., M]`` of latents ``[..., P, D]``."""
        kind = next(self.layers.parameters()).dtype  # the agent's copy computes in bfloat16
        points: Tensor = self.layers(z.flatten(-2).to(kind)).float()
        return points


def temporal_difference(
    metric: TemporalMetric,
    slow: TemporalMetric,
    z: Tensor,
    ids: Tensor,
    generator: torch.Generator,
    discount: float = 0.98,
    expectile: float = 0.9,
    random_goals: float = 0.4,
) -> Tensor:
    """Expectile regression of the steps to a goal on one step more than from the next frame
    (implicit Q-learning: Kostrikov et al. 2022).

    A high expectile takes the best of what is recorded, so detours that happened to be recorded do
    not lengthen the distance, and parts of several episodes combine to the shortest path.

    Args:
        metric: is trained.
        slow: its moving average, which gives the targets.
        z: latents of clips ``[B, J, P, D]``.
        ids: a number for each frame ``[B, J]``; equal numbers are the same frame.
        generator: draws transitions and goals, on the CPU.
        discount: per model step.
        expectile: of the steps saved, above 0.5.
        random_goals: share of goals from other clips; the others are later frames of the same clip.
    """
    clips, frames = ids.shape
    rows = torch.arange(clips)
    now = torch.randint(frames - 1, (clips,), generator=generator)
    ahead = torch.rand(clips, generator=generator) * (frames - 1 - now)
    at = now + 1 + ahead.long()
    row = torch.where(
        torch.rand(clips, generator=generator) < random_goals,
        torch.randperm(clips, generator=generator),
        rows,
    )
    rows, now, row, at = (t.to(z.device) for t in (rows, now, row, at))
    start, following, goal = z[rows, now], z[rows, now + 1], z[row, at]
    arrived = ids[rows, now] == ids[row, at]
    with torch.no_grad():
        target = torch.where(arrived, 0.0, 1 + discount * slow(following, goal))
        shorter = target < slow(start, goal)
    weight = torch.where(shorter, expectile, 1 - expectile)
    return (weight * (metric(start, goal) - target).square()).mean()
