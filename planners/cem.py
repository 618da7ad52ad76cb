"""The cross-entropy method, with the improvements of iCEM as options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from .checks import check_at_least, check_between
from .noise import coloured
from .plan import Budget, Plan
from .problem import Problem
from .search import Candidates, Search


@dataclass(frozen=True)
class Cem:
    """Sample around a mean, refit mean and sigma to the elites, repeat.

    Rubinstein and Kroese, The Cross-Entropy Method, 2004; coloured noise, kept elites and
    momentum from Pinneri et al., Sample-efficient CEM for real-time planning (iCEM), 2020. Elites
    are chosen feasible first, as in Wen and Topcu, Constrained CEM, 2018. Sample 0 is always the
    mean itself. The plan is the best sample of all iterations, verified.

    elites: share of the samples that the next distribution is fitted to.
    sigma: first standard deviation, in units of (high - low) / 2.
    beta: colour of the noise over the horizon; 0 is white.
    elite_reuse: share of the elites that compete again in the next iteration. Their scores are
        kept, so this costs no model steps.
    sigma_decay: factor on sigma after every refit.
    sigma_floor: least sigma, in units of (high - low) / 2.
    momentum: share of the old mean and sigma in the new ones.
    returns: "best" sample, or "mean" of the last elites, as in DINO-WM. The mean is evaluated and
        verified like any sample; where it is infeasible, the best feasible sample is returned.

    Raises ValueError for options out of range.
    """

    name: ClassVar[str] = "cem"
    default_budget: ClassVar[Budget] = Budget(samples=300, iterations=10)

    elites: float = 0.1
    sigma: float = 0.5
    beta: float = 0.0
    elite_reuse: float = 0.3
    sigma_decay: float = 1.0
    sigma_floor: float = 0.01
    momentum: float = 0.1
    returns: Literal["best", "mean"] = "best"

    def __post_init__(self) -> None:
        check_between("elites", self.elites, 0, 1)
        check_at_least("sigma", self.sigma, 0)
        check_at_least("beta", self.beta, 0)
        check_between("elite_reuse", self.elite_reuse, 0, 1)
        check_between("sigma_decay", self.sigma_decay, 0, 1)
        check_at_least("sigma_floor", self.sigma_floor, 0)
        check_between("momentum", self.momentum, 0, 1)
        if self.returns not in ("best", "mean"):
            raise ValueError(f"returns must be 'best' or 'mean', got {self.returns!r}")

    @torch.no_grad()
    def plan(self, problem: Problem, budget: Budget, generator: torch.Generator) -> Plan:
        """See `planners.Planner.plan`."""
        search = Search(problem, budget, generator)
        elites = max(1, round(self.elites * budget.samples))
        keep = round(self.elite_reuse * elites)
        mean = problem.start
        sigma = (self.sigma * problem.half_range).expand_as(mean)
        floor = self.sigma_floor * problem.half_range
        shape = (problem.episodes, budget.samples, problem.horizon, len(problem.low))
        kept: Candidates | None = None
        for _ in search.iterations():
            noise = coloured(shape, self.beta, mean, generator)
            noise[:, 0] = 0
            candidates = search.sample(mean[:, None] + sigma[:, None] * noise)
            elite = candidates.join(kept).join(search.hold).best(elites)
            kept = elite.take(torch.arange(keep, device=mean.device).expand(problem.episodes, -1))

            # Samples whose results are not finite have no weight, even if too few others exist.
            weight = elite.violation.isfinite().to(mean)[..., None, None]
            count = weight.sum(1)
            centre = (weight * elite.actions).sum(1) / count.clamp(min=1)
            spread = (weight * (elite.actions - centre[:, None]).square()).sum(1)
            spread = (spread / count.clamp(min=1)).sqrt()
            moved_mean = torch.lerp(centre, mean, self.momentum)
            moved_sigma = torch.lerp(spread, sigma, self.momentum) * self.sigma_decay
            mean = torch.where(count > 0, moved_mean, mean)
            sigma = torch.where(count > 0, moved_sigma.maximum(floor), sigma)
        if self.returns == "mean":
            search.finalists = search.sample(mean[:, None]).join(search.finalists)
        return search.finish()
