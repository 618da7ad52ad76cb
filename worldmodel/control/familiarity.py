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
    """Frames that the data showed.

    mean: of latents and proprio side by side ``[C]``.
    axes: to few numbers ``[C, n]``, in units of the distance that is still familiar.
    frames: those that are kept ``[M, n]``.
    """

    mean: Tensor
    axes: Tensor
    frames: Tensor

    @classmethod
    def of(cls, info: CheckpointInfo, device: torch.device) -> Familiar:
        """What a checkpoint remembers.

        Raises:
            UserError: nothing.
        """
        if not info.familiar:
            raise UserError(
                "this checkpoint does not know what its data showed: run python -m "
                "worldmodel.familiar --data ... --checkpoint ... first"
            )
        return cls(*(info.familiar[name].to(device) for name in ("mean", "axes", "frames")))

    @classmethod
    def learn(cls, shown: Tensor, others: Tensor, count: int, axes: int, level: float) -> Familiar:
        """From latents and proprio of frames ``[N, C]``, of which the first `count` are kept; a
        share `level` of others ``[K, C]`` is farther than 1 from all of them."""
        mean, std = shown.mean(0), shown.std(0)
        std = torch.where(std > 1e-6, std, 1.0)
        axes = min(axes, shown.shape[1])
        turn = principal_axes((shown - mean) / std, axes) / std[:, None]
        bare = cls(mean, turn, (shown[:count] - mean) @ turn)
        limit = bare.nearest(others).quantile(1 - level).clamp(min=1e-6)
        return cls(mean, turn / limit, bare.frames / limit)

    def distance(self, z: Tensor, proprio: Tensor) -> Tensor:
        """Distance ``[...]`` of latents ``[..., P, D]`` and proprio ``[..., Dp]`` from the nearest
        frame; 1 is about the farthest that is usual."""
        return self.nearest(torch.cat([z.flatten(-2), proprio], -1).float())

    def nearest(self, numbers: Tensor) -> Tensor:
        """The same for both side by side ``[..., C]``."""
        return torch.cdist((numbers - self.mean) @ self.axes, self.frames).amin(-1)

    def arrays(self) -> dict[str, Tensor]:
        """The finding "familiar" of a checkpoint."""
        return {"mean": self.mean, "axes": self.axes, "frames": self.frames}
