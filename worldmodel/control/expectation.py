"""Whether what is seen is what was expected a model step ago.

Three errors are watched, each the mean over the environment steps of the latest model step, as what
is wrong for a while stands out sooner than what is wrong once: those of latents and of proprio,
between what the model expected and what came; and that of latents where much less moved than was
expected, as when something is not pushed by what touches it. How large they usually are was found
on held-out episodes (`worldmodel.surprise`); a p-value is the share of usual steps that are as
surprising (conformal prediction: Vovk et al. 2005).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planners import Trajectory
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import CheckpointInfo
from worldmodel.models.world_model import WorldModel

Array = NDArray[Any]
WATCHED = ("latents", "proprio", "unmoved")
UNMOVED = 1 / 4  # of the squared distance that was expected: half as far


def unexpected(model: WorldModel, expected: Trajectory, seen: Trajectory, before: Tensor) -> Tensor:
    """Squared errors ``[E, 3]``, in the order of WATCHED, of what was expected, z ``[E, P, D]`` and
    proprio ``[E, Dp]``: in units of the model's distance, and of proprio's variance. `before`:
    latents of a model step ago."""
    assert expected.proprio is not None and seen.proprio is not None
    proprio = ((seen.proprio - expected.proprio) / model.proprio_std).square().mean(-1)
    latents = model.distance(expected.z.float(), seen.z.float())
    moved, should = (model.distance(z.float(), before.float()) for z in (seen.z, expected.z))
    return torch.stack([latents, proprio, latents * (moved < UNMOVED * should)], -1)


@dataclass(frozen=True)
class Expectation:
    """How large errors usually are.

    levels: shares of usual steps, falling: 1/2, 1/4, ...
    limits: what such a share of them exceeds, ``[3][len(levels)]``, in the order of WATCHED.
    """

    levels: tuple[float, ...]
    limits: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, info: CheckpointInfo) -> Expectation:
        """What was found for a checkpoint.

        Raises:
            UserError: nothing was.
        """
        if not info.surprise or set(info.surprise["limits"]) != set(WATCHED):
            raise UserError(
                f"this checkpoint does not know what is usual: run python -m worldmodel.surprise "
                f"--env {info.env_id} first"
            )
        limits = tuple(tuple(info.surprise["limits"][name]) for name in WATCHED)
        return cls(tuple(info.surprise["levels"]), limits)

    @classmethod
    def from_errors(cls, errors: Array, finest: int = 14) -> Expectation:
        """From those of usual steps ``[n, 3]``: levels as fine as n allows, at most 2^-finest."""
        errors = np.sort(errors, 0)
        levels = [0.5**k for k in range(1, finest + 1) if len(errors) + 1 >= 2**k]
        places = [math.ceil((len(errors) + 1) * (1 - level)) - 1 for level in levels]
        return cls(tuple(levels), tuple(tuple(column[places].tolist()) for column in errors.T))

    def p_value(self, errors: Tensor) -> Tensor:
        """Of errors ``[E, 3]``, ``[E]``: at least the share of usual steps that are as surprising
        in one of them (Bonferroni). What is no number is as surprising as can be."""
        levels, limits = errors.new_tensor(self.levels), errors.new_tensor(self.limits)
        exceeded = ~(errors.unsqueeze(-1) <= limits)  # [E, 2, levels]
        shares = torch.where(exceeded, levels, 1.0).amin((-2, -1))
        return (len(self.limits) * shares).clamp(max=1.0)

    def score(self, errors: Tensor) -> Tensor:
        """Of errors ``[E, 3]``, ``[E]``: how rare they are, in bits, without steps, to compare:
        beyond the rarest limit, by how many times they exceed it."""
        bits = -np.log2(self.levels)
        found = []
        for column, limits in zip(errors.unbind(-1), self.limits, strict=True):
            error, last = column.double().numpy(), max(limits[-1], 1e-12)
            beyond = np.log2(np.maximum(error / last, 1.0))
            found.append(np.where(error > 0, np.interp(error, limits, bits) + beyond, 0.0))
        return torch.from_numpy(np.max(found, 0))

    def as_json(self) -> dict[str, Any]:
        """For a checkpoint's config.json."""
        named: Sequence[tuple[str, tuple[float, ...]]] = list(
            zip(WATCHED, self.limits, strict=True)
        )
        return {
            "levels": list(self.levels),
            "limits": {name: [float(f"{x:.4g}") for x in limits] for name, limits in named},
        }
