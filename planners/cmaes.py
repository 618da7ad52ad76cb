"""Covariance matrix adaptation, through the `cma` package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from .checks import check_above, check_at_least
from .plan import Budget, Plan
from .problem import Problem
from .search import Search, rank


@dataclass(frozen=True)
class CmaEs:
    """One evolution strategy per episode; the samples of all episodes are one rollout batch.

    Hansen, The CMA evolution strategy: a tutorial, 2016. Samples are projected into the bounds
    before the model sees them. The strategy receives the rank of each projected sample at the place
    where the sample was drawn: at the projected place, its step size would shrink at every bound.
    It receives ranks only, feasible first, so no scale of the cost matters. The plan is the best
    sample of all iterations, verified.

    The strategy runs on the CPU: with a model on a GPU, every iteration waits for the GPU.

    sigma: first step size, in units of (high - low) / 2.
    diagonal: adapt only the diagonal of the covariance: faster per iteration, and quicker to
        learn, where horizon times action size is large.
    tolerance: stop ("converged") once the largest standard deviation of every episode is below
        this, in units of (high - low) / 2.

    Raises ValueError for options out of range, and for a budget of fewer than 4 samples.
    """

    name: ClassVar[str] = "cmaes"
    default_budget: ClassVar[Budget] = Budget(samples=300, iterations=10)

    sigma: float = 0.5
    diagonal: bool = False
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        check_above("sigma", self.sigma, 0)
        check_at_least("tolerance", self.tolerance, 0)
        # Slow to import (it brings in matplotlib). Here, the other planners do not wait for it,
        # and the first plan does not miss its deadline.
        import cma  # type: ignore[import-untyped]  # noqa: F401

    @torch.no_grad()
    def plan(self, problem: Problem, budget: Budget, generator: torch.Generator) -> Plan:
        """See `planners.Planner.plan`."""
        if budget.samples < 4:
            raise ValueError(f"cmaes needs a budget of at least 4 samples, got {budget.samples}")
        search = Search(problem, budget, generator)
        start, half = problem.start, problem.half_range
        centre = problem.low + half
        shape = (budget.samples, problem.horizon, len(problem.low))

        # The strategies work on flat sequences [T * A] in units in which the box is [-1, 1].
        first = ((start - centre) / half).flatten(-2).double().cpu().numpy()
        strategies = [self._strategy(x, budget.samples, generator) for x in first]
        for index in search.iterations():
            asked = np.stack([strategy.ask() for strategy in strategies])
            if index == 0:
                asked[:, 0] = first  # the warm start competes as it is
            actions = centre + half * torch.from_numpy(asked).to(start).unflatten(-1, shape[1:])
            candidates = search.sample(actions)
            if candidates.cost.shape[1] < budget.samples:
                break  # no time for all of them: the strategy needs the whole population
            order = rank(candidates).cpu()
            place = torch.empty_like(order).scatter_(
                1, order, torch.arange(budget.samples).expand_as(order)
            )
            for strategy, x, y in zip(strategies, asked, place.tolist(), strict=True):
                strategy.tell(list(x), y, check_points=False)
            if max(s.stds.max() for s in strategies) < self.tolerance:
                search.stop_reason = "converged"
                break
        return search.finish()

    def _strategy(self, first: np.ndarray, samples: int, generator: torch.Generator) -> Any:
        """A strategy that starts at first [T * A], writes nothing and leaves NumPy's seed alone."""
        import cma

        seed = int(torch.randint(2**62, (1,), generator=generator))
        numbers = np.random.default_rng(seed)
        options = {
            "popsize": samples,
            "CMA_diagonal": self.diagonal,
            "randn": lambda *size: numbers.standard_normal(size),
            "seed": np.nan,
            "verbose": -10,
            "verb_log": 0,
            "verb_disp": 0,
            "signals_filename": "",
        }
        return cma.CMAEvolutionStrategy(first, self.sigma, options)
