"""What a planner is given to work with, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .checks import check_at_least, check_count
from .problem import Problem, Trajectory


@dataclass(frozen=True)
class Budget:
    """How long to search.

    samples: candidates per iteration.
    iterations: how many iterations at most.
    budget_ms: milliseconds for the whole call, the final verification included, or None. No
        iteration begins that would not end in time; a few samples are always evaluated.
    patience: iterations without progress after which the search has converged, or None. An
        iteration makes progress if it lowers the cost of the best sequence of some episode by a
        thousandth of the difference between median and best cost of the first samples, or while
        that sequence is infeasible.

    With budget_ms or patience, a planner on a GPU waits for the GPU once per iteration.
    """

    samples: int = 300
    iterations: int = 10
    budget_ms: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        check_count("samples", self.samples)
        check_count("iterations", self.iterations)
        if self.budget_ms is not None:
            check_at_least("budget_ms", self.budget_ms, 0)
        if self.patience is not None:
            check_count("patience", self.patience)


@dataclass(frozen=True, eq=False)
class Plan:
    """A sequence of actions and the results of its verification.

    actions [E, T, A] lie within the bounds. trajectory (z [E, T, P, D], proprio [E, T, Dp]), cost
    [E] and violations [E, T, G] come from rolling out exactly these actions. feasible [E]: every
    violation <= 0 and every prediction finite. stop_reason: "iterations", "deadline" or
    "converged" ("verified" when it comes from `verify` itself). timings: milliseconds in
    "search", "verify" and "total". model_calls: model steps evaluated, S * T * E summed.
    """

    actions: Tensor
    trajectory: Trajectory
    cost: Tensor
    violations: Tensor
    feasible: Tensor
    stop_reason: str
    timings: dict[str, float]
    model_calls: int


class Planner(Protocol):
    """Chooses actions. Stateless: the same problem, budget and seed give the same plan."""

    @property
    def name(self) -> str: ...

    @property
    def default_budget(self) -> Budget: ...

    def plan(self, problem: Problem, budget: Budget, generator: torch.Generator) -> Plan:
        """Search within the budget; all randomness comes from `generator`, which is on the CPU.

        Raises ValueError where the rollout, cost or a guardrail returns a wrong shape.
        """
        ...
