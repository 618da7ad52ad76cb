"""Edits of latents that move an object in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEAREST = 32  # frames whose latents are averaged


@dataclass(frozen=True, eq=False)
class PositionEditor:
    """Edits that move a position in latents.

    Attributes:
        z: latents of training frames, ``[n, C]``.
        y: targets of a linear probe at these frames, ``[n, K]``.
        weights: the linear probe, ``[C + 1, K]``.
        position: columns of y that hold x and y of the position.
    """

    z: Tensor
    y: Tensor
    weights: Tensor
    position: tuple[int, int]

    @property
    def std(self) -> Tensor:
        """Standard deviations of the latents, ``[C]``."""
        return self.z.std(0).clamp_min(1e-6)

    def nearest(self, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The training frames whose positions are nearest to those in y ``[m, K]``: distances and
        indices, ``[m, count]`` each."""
        columns = list(self.position)
        found = torch.cdist(y[:, columns], self.y[:, columns]).topk(count, largest=False)
        return found.values, found.indices

    def by_probe(self, before: Tensor, after: Tensor) -> Tensor:
        """Edits ``[m, C]`` that change the probe's output from `before` to `after` ``[m, K]``: the
        shortest in standardised latents, by the pseudo-inverse of the probe's weights."""
        slope = self.weights[:-1].double() * self.std[:, None]
        columns = torch.linalg.pinv(slope)  # [K, C]
        return ((after - before).double() @ columns).float() * self.std

    def by_means(self, before: Tensor, after: Tensor) -> Tensor:
        """Edits ``[m, C]``: the mean latents of the frames nearest to the position in `after`,
        minus those of the frames nearest to the position in `before` ``[m, K]``."""
        count = min(NEAREST, len(self.z))
        target, source = (self.z[self.nearest(y, count)[1]].mean(1) for y in (after, before))
        return target - source

    def random(self, edit: Tensor, g: torch.Generator) -> Tensor:
        """Edits in random directions, as long as `edit` ``[m, C]`` in standardised latents."""
        direction = torch.randn(edit.shape, generator=g)
        length = (edit / self.std).norm(dim=1, keepdim=True)
        return direction / direction.norm(dim=1, keepdim=True) * length * self.std
