"""Model-predictive path integral control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .checks import check_above, check_at_least, check_between
from .noise import coloured
from .plan import Budget, Plan
from .problem import Problem
from .search import Candidates, Search, rank


@dataclass(frozen=True)
class Mppi:
    """Sample around a mean, move it to the average weighted by exp(-cost / temperature), repeat.

    Williams et al., Information theoretic MPC for model-based reinforcement learning, 2017; sigma
    shrinks between iterations as in Xue et al., Full-order sampling-based MPC (DIAL-MPC), 2024.
    Only feasible samples have weight; while an episode has none, weights follow the total
    violation instead of the cost. Sample 0 is always the mean itself. The plan is the best sample
    of all iterations, verified.

    temperature: as a fraction of the spread of the cost (median minus best of the samples that
        count), so that it means the same for any scale of the cost.
    sigma: first standard deviation, in units of (high - low) / 2.
    sigma_decay: factor on sigma after every iteration.
    sigma_floor: least sigma, in units of (high - low) / 2.
    beta: colour of the noise over the horizon; 0 is white.

    Raises ValueError for options out of range.
    """

    name: ClassVar[str] = "mppi"
    default_budget: ClassVar[Budget] = Budget(samples=300, iterations=10)

    temperature: float = 0.1
    sigma: float = 0.5
    sigma_decay: float = 0.85
    sigma_floor: float = 0.01
    beta: float = 0.0

    def __post_init__(self) -> None:
        check_above("temperature", self.temperature, 0)
        check_at_least("sigma", self.sigma, 0)
        check_between("sigma_decay", self.sigma_decay, 0, 1)
        check_at_least("sigma_floor", self.sigma_floor, 0)
        check_at_least("beta", self.beta, 0)

    @torch.no_grad()
    def plan(self, problem: Problem, budget: Budget, generator: torch.Generator) -> Plan:
        """See `planners.Planner.plan`."""
        search = Search(problem, budget, generator)
        mean = problem.start
        shape = (problem.episodes, budget.samples, problem.horizon, len(problem.low))
        for index in search.iterations():
            sigma = max(self.sigma * self.sigma_decay**index, self.sigma_floor)
            noise = coloured(shape, self.beta, mean, generator)
            noise[:, 0] = 0
            candidates = search.sample(mean[:, None] + sigma * problem.half_range * noise)
            candidates = candidates.join(search.hold)
            weight = self.weights(candidates).to(mean)
            moved = (weight[..., None, None] * candidates.actions).sum(1)
            mean = torch.where(weight.sum(1)[:, None, None] > 0, moved, mean)
        return search.finish()

    def weights(self, candidates: Candidates) -> Tensor:
        """Weights of candidates [E, S]; they sum to 1, or to 0 where nothing could be evaluated."""
        ordered = candidates.take(rank(candidates))
        feasible = candidates.violation <= 0
        any_feasible = feasible.any(1, keepdim=True)
        counts = torch.where(any_feasible, feasible, candidates.violation.isfinite())
        value = torch.where(any_feasible, candidates.cost.double(), candidates.violation)
        ordered_value = torch.where(any_feasible, ordered.cost.double(), ordered.violation)
        # Those that count come first in the order, so their median is in the middle of them.
        median = ordered_value.gather(1, counts.sum(1, keepdim=True) // 2)
        best = ordered_value[:, :1]
        spread = (median - best).clamp(min=torch.finfo(torch.float64).tiny)
        weight = torch.where(counts, torch.exp((best - value) / (self.temperature * spread)), 0.0)
        return weight / weight.sum(1, keepdim=True).clamp(min=1)
