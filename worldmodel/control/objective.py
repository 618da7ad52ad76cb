"""What a plan costs, given squared distances to the goal along it.

`ObjectiveConfig` chooses an objective by name. A further one is a class with the two methods of
`Objective` and an entry in `OBJECTIVES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from worldmodel.errors import UserError


class Objective(Protocol):
    """What a plan costs; lower is better."""

    def proprio_weight(self, now: Tensor) -> Tensor:
        """Weight ``[E]`` of the squared proprioceptive distance against the latent one.

        Args:
            now: squared latent distance of the current frame to the goal, ``[E]``.
        """
        ...

    def cost(self, distance: Tensor, ends: int | None = None) -> Tensor:
        """Cost ``[...]`` of plans.

        Args:
            distance: squared distance to the goal after each model step, ``[..., T]``: latent
                distance plus weighted proprioceptive distance.
            ends: model steps until the episode ends; later ones do not count. None: no end.
        """
        ...


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a plan costs."""

    name: str = "arrival"
    """arrival (the distance on arrival, plus a price of the time until then) or last (the distance
    at the horizon, as in DINO-WM)."""
    near: float = 1.0
    """Squared latent distance at which the goal is near, in units of the checkpoint's own."""
    proprio_weight: float = 0.6
    """Weight of the squared proprioceptive distance; arrival reduces it far from the goal."""
    time_weight: float = 0.1
    """Price of a model step before arrival, in units of near."""
    stay_weight: float = 0.2
    """Weight of the distance at the horizon, against that on arrival."""

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise UserError(f"objective is {self.name!r}: there are {', '.join(OBJECTIVES)}")
        if not 0 < self.near < math.inf:
            raise UserError(f"near is {self.near!r}: it must be a number above 0")
        for name in ("proprio_weight", "time_weight", "stay_weight"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)!r}: it must be at least 0")

    def make(self, near: float) -> Objective:
        """The objective, in a metric in which the squared distance `near` counts as near."""
        return OBJECTIVES[self.name](self, self.near * near)


@dataclass(frozen=True)
class Arrival:
    """Distance on arrival plus a price of the time until then, at the step where the sum is least.

    DINO-WM (Zhou et al. 2025) minimises the distance at the horizon. As the horizon recedes, such
    plans can delay arrival indefinitely; a price on time prevents that. A share of the distance at
    the horizon keeps plans at the goal. Proprioception counts only near the goal: before that the
    robot has to move objects rather than take its own final position.
    """

    config: ObjectiveConfig
    near: float

    def proprio_weight(self, now: Tensor) -> Tensor:
        """See `Objective.proprio_weight`: half of the configured weight at `near`."""
        return self.config.proprio_weight * (self.near / (self.near + now))

    def cost(self, distance: Tensor, ends: int | None = None) -> Tensor:
        """See `Objective.cost`."""
        distance = _until(distance, ends)
        steps = torch.arange(distance.shape[-1], device=distance.device)
        late = self.config.time_weight * self.near * steps
        return (distance + late).amin(-1) + self.config.stay_weight * distance[..., -1]


@dataclass(frozen=True)
class Last:
    """The distance at the horizon, with the whole weight of proprioception (DINO-WM)."""

    config: ObjectiveConfig
    near: float

    def proprio_weight(self, now: Tensor) -> Tensor:
        """See `Objective.proprio_weight`."""
        return torch.full_like(now, self.config.proprio_weight)

    def cost(self, distance: Tensor, ends: int | None = None) -> Tensor:
        """See `Objective.cost`."""
        return _until(distance, ends)[..., -1]


def _until(distance: Tensor, ends: int | None) -> Tensor:
    """Distances ``[..., T]`` up to the end of the episode, at least one."""
    return distance if ends is None else distance[..., : max(1, ends)]


OBJECTIVES: dict[str, Callable[[ObjectiveConfig, float], Objective]] = {
    "arrival": Arrival,
    "last": Last,
}
