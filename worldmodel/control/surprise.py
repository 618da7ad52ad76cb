"""Surprise: how rare the latest prediction errors of the model are.

The monitor tracks three errors, each the mean over the environment steps of the latest model step,
because a lasting error stands out sooner than a single one: prediction errors of latents and of
proprioception, and the latent error where an object moved much less than predicted, such as one
that is stuck. Their usual size comes from undisturbed held-out episodes (`worldmodel.surprise`).
The p-value is the share of usual steps as surprising (conformal prediction, Vovk et al. 2005).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planners import Trajectory
from worldmodel.control.inference import Inference
from worldmodel.control.memory import Memory
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import CheckpointInfo
from worldmodel.models.world_model import WorldModel

Array = NDArray[Any]
ERROR_NAMES = ("latents", "proprio", "unmoved")
UNMOVED = 1 / 4  # of the predicted squared distance: half of the predicted motion


def squared_errors(
    model: WorldModel, predicted: Trajectory, observed: Trajectory, before: Tensor
) -> Tensor:
    """Squared prediction errors ``[E, 3]``, in the order of `ERROR_NAMES`.

    Args:
        model: gives the distance of latents, and the standard deviation of proprio.
        predicted: z ``[E, P, D]`` and proprio ``[E, Dp]``.
        observed: likewise.
        before: latents a model step earlier, ``[E, P, D]``.
    """
    assert predicted.proprio is not None and observed.proprio is not None
    proprio = ((observed.proprio - predicted.proprio) / model.proprio_std).square().mean(-1)
    latents = model.distance(predicted.z.float(), observed.z.float())
    moved, expected = (model.distance(z.float(), before.float()) for z in (observed.z, predicted.z))
    return torch.stack([latents, proprio, latents * (moved < UNMOVED * expected)], -1)


@torch.no_grad()
def prediction_errors(inference: Inference, memory: Memory, observed: Trajectory) -> Tensor:
    """Errors ``[E, 3]`` of the prediction made a model step ago for the present.

    Args:
        inference: the world model.
        memory: the past, with the present frame.
        observed: the present: z ``[E, P, D]`` and proprio ``[E, Dp]``.
    """
    actions = memory.actions(memory.frameskip).flatten(1)[:, None, None]
    before = memory.context(memory.frameskip)
    z, proprio = inference.rollout(before, actions)
    assert proprio is not None
    predicted = Trajectory(z[:, 0, 0], proprio[:, 0, 0])
    return squared_errors(inference.model, predicted, observed, before.z[:, -1])


@dataclass(frozen=True)
class UsualErrors:
    """Quantiles of the prediction errors of undisturbed episodes.

    levels: shares of usual steps, falling: 1/2, 1/4, ...
    limits: the errors that such a share exceeds, ``[3][len(levels)]``, in the order of ERROR_NAMES.
    """

    levels: tuple[float, ...]
    limits: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, info: CheckpointInfo) -> UsualErrors:
        """Those stored with a checkpoint.

        Raises:
            UserError: none are.
        """
        if not info.surprise or set(info.surprise["limits"]) != set(ERROR_NAMES):
            raise UserError(
                "this checkpoint has no usual prediction errors to compare with: run python -m "
                f"worldmodel.surprise --env {info.env_id} first"
            )
        limits = tuple(tuple(info.surprise["limits"][name]) for name in ERROR_NAMES)
        return cls(tuple(info.surprise["levels"]), limits)

    @classmethod
    def from_errors(cls, errors: Array, finest: int = 14) -> UsualErrors:
        """From errors of undisturbed steps ``[n, 3]``: levels as fine as n allows, at most
        2^-finest."""
        errors = np.sort(errors, 0)
        levels = [0.5**k for k in range(1, finest + 1) if len(errors) + 1 >= 2**k]
        places = [math.ceil((len(errors) + 1) * (1 - level)) - 1 for level in levels]
        return cls(tuple(levels), tuple(tuple(column[places].tolist()) for column in errors.T))

    def p_value(self, errors: Tensor) -> Tensor:
        """p-values ``[E]`` of errors ``[E, 3]``: at least the share of usual steps that are as
        surprising in one of them (Bonferroni). Errors that are not finite get the least p-value."""
        levels, limits = errors.new_tensor(self.levels), errors.new_tensor(self.limits)
        exceeded = ~(errors.unsqueeze(-1) <= limits)  # [E, 3, levels]
        shares = torch.where(exceeded, levels, 1.0).amin((-2, -1))
        return (len(self.limits) * shares).clamp(max=1.0)

    def score(self, errors: Tensor) -> Tensor:
        """Scores ``[E]`` of errors ``[E, 3]``: their rarity in bits, interpolated between levels.
        Errors beyond the rarest limit score by their ratio to it."""
        bits = -np.log2(self.levels)
        scores = []
        for column, limits in zip(errors.unbind(-1), self.limits, strict=True):
            error, last = column.double().numpy(), max(limits[-1], 1e-12)
            beyond = np.log2(np.maximum(error / last, 1.0))
            scores.append(np.where(error > 0, np.interp(error, limits, bits) + beyond, 0.0))
        return torch.from_numpy(np.max(scores, 0))

    def as_json(self) -> dict[str, Any]:
        """The finding "surprise" of a checkpoint."""
        named: Sequence[tuple[str, tuple[float, ...]]] = list(
            zip(ERROR_NAMES, self.limits, strict=True)
        )
        return {
            "levels": list(self.levels),
            "limits": {name: [float(f"{x:.4g}") for x in limits] for name, limits in named},
        }


class SurpriseTracker:
    """p-values along E episodes.

    Args:
        alarm: p-value below which a step is a surprise.
        frameskip: environment steps in a model step.
        episodes: E.

    Attributes:
        errors: mean errors of the latest model step, ``[E, 3]``.
        p_value: of `errors`, ``[E]``; 1 before the first update.
    """

    def __init__(self, alarm: float, frameskip: int, episodes: int) -> None:
        self.alarm, self.frameskip = alarm, frameskip
        self.errors = torch.zeros(episodes, len(ERROR_NAMES))
        self.p_value = torch.ones(episodes)
        self._latest: deque[Tensor] = deque(maxlen=frameskip)
        self._steps = torch.zeros(episodes, dtype=torch.int64)  # surprises in a row

    def update(self, usual: UsualErrors, errors: Tensor) -> None:
        """Add the errors ``[E, 3]`` of one environment step."""
        self._latest.append(errors.cpu())
        self.errors = torch.stack(tuple(self._latest)).mean(0)
        self.p_value = usual.p_value(self.errors)
        self._steps = torch.where(self.alarmed, self._steps + 1, 0)

    @property
    def alarmed(self) -> Tensor:
        """Whether the latest step is a surprise, bool ``[E]``."""
        return self.p_value < self.alarm

    @property
    def lasting(self) -> Tensor:
        """Whether the surprise has lasted for more than two model steps, bool ``[E]``.

        A single event is visible for two: in the prediction from before it, and in the mean.
        """
        return self._steps > 2 * self.frameskip
