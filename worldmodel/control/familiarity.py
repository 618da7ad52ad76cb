"""How far imagined states are from the frames of the data.

A model knows nothing of states that its data did not show, and planners exploit that. So frames of
the data are stored with the checkpoint, latents and proprioception along their principal axes; the
distance of an imagined state to the nearest of them tells whether the model can know it (deep
nearest neighbours: Sun et al. 2022). The unit is the distance within which 99 % of the frames of
held-out episodes lie; ``--guardrail familiar:1`` allows no plan farther away.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.errors import UserError
from worldmodel.models.checkpoint import CheckpointInfo
from worldmodel.models.principal_components import principal_axes


@dataclass(frozen=True, eq=False)
class Familiar:
    """A sample of the training data.

    Attributes:
        mean: of latents and proprioception side by side ``[C]``.
        axes: principal axes ``[C, n]``, scaled so that a distance of 1 is still familiar.
        frames: stored frames, along the axes ``[M, n]``.
    """

    mean: Tensor
    axes: Tensor
    frames: Tensor

    @classmethod
    def of(cls, info: CheckpointInfo, device: torch.device) -> Familiar:
        """The sample that is stored with a checkpoint.

        Raises:
            UserError: there is none.
        """
        if not info.familiar:
            raise UserError(
                "this checkpoint has no sample of its training data: run python -m "
                "worldmodel.familiar --data ... --checkpoint ... first"
            )
        return cls(*(info.familiar[name].to(device) for name in ("mean", "axes", "frames")))

    @classmethod
    def learn(cls, shown: Tensor, others: Tensor, count: int, axes: int, level: float) -> Familiar:
        """Fit to frames, given as latents and proprioception side by side.

        Args:
            shown: training frames ``[N, C]``.
            others: held-out frames ``[K, C]``, which set the unit.
            count: stored frames.
            axes: principal axes.
            level: share of the held-out frames with a distance above 1.
        """
        mean, std = shown.mean(0), shown.std(0)
        std = torch.where(std > 1e-6, std, 1.0)
        axes = min(axes, shown.shape[1])
        basis = principal_axes((shown - mean) / std, axes) / std[:, None]
        unscaled = cls(mean, basis, (shown[:count] - mean) @ basis)
        limit = unscaled.nearest(others).quantile(1 - level).clamp(min=1e-6)
        return cls(mean, basis / limit, unscaled.frames / limit)

    def distance(self, z: Tensor, proprio: Tensor) -> Tensor:
        """Distance ``[...]`` of latents ``[..., P, D]`` and proprioception ``[..., Dp]`` to the
        nearest stored frame."""
        return self.nearest(torch.cat([z.flatten(-2), proprio], -1).float())

    def nearest(self, numbers: Tensor) -> Tensor:
        """`distance` for latents and proprioception side by side ``[..., C]``."""
        return torch.cdist((numbers - self.mean) @ self.axes, self.frames).amin(-1)

    def arrays(self) -> dict[str, Tensor]:
        """The finding "familiar" of a checkpoint."""
        return {"mean": self.mean, "axes": self.axes, "frames": self.frames}
