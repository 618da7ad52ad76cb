"""Gradient descent through the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .checks import check_above, check_at_least, check_count
from .noise import coloured
from .plan import Budget, Plan
from .problem import Problem
from .search import Evaluation, Search, evaluate_candidates


@dataclass(frozen=True)
class Gradient:
    """Adam from several starts, projected into the bounds after every step.

    Kingma and Ba, Adam, 2015. Samples never interact: each has its own moments, and its gradient
    is normalised on its own, so the scale of the cost does not matter. Guardrails enter through
    an augmented Lagrangian per sample (Rockafellar, 1973; Birgin and Martinez, 2014), in units of
    the largest value each guardrail had at that sample's start, so that their units do not matter
    either; a guardrail without a gradient only ranks. The plan is the best of all points, feasible
    first, verified.

    The budget's samples are starts, its iterations the points per start. The starts are the best of
    the warm start (or the middle of the box) and random sequences around it. Model steps of the
    backward pass are not counted in `model_calls`.

    tries: sequences evaluated for each start.
    sigma: standard deviation of these sequences, in units of (high - low) / 2.
    beta: colour of that noise over the horizon; 0 is white.
    learning_rate: first step of Adam, in units of (high - low) / 2; it falls to 0 along a cosine
        over the iterations.
    penalty: weight of a violation against the unit gradient of the cost; the weight grows with
        every step that violates the guardrail.
    tolerance: with a budget in time or a patience, stop ("converged") once no action moves by more
        than this, in units of (high - low) / 2.

    Raises ValueError for options out of range, and where the rollout or the cost passes on no
    gradient. The model must not have been prepared under torch.inference_mode.
    """

    name: ClassVar[str] = "gradient"
    default_budget: ClassVar[Budget] = Budget(samples=8, iterations=30)

    tries: int = 10
    sigma: float = 0.5
    beta: float = 0.0
    learning_rate: float = 0.2
    penalty: float = 1.0
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        check_count("tries", self.tries)
        check_at_least("sigma", self.sigma, 0)
        check_at_least("beta", self.beta, 0)
        check_above("learning_rate", self.learning_rate, 0)
        check_at_least("penalty", self.penalty, 0)
        check_at_least("tolerance", self.tolerance, 0)

    @torch.no_grad()
    def plan(self, problem: Problem, budget: Budget, generator: torch.Generator) -> Plan:
        """See `planners.Planner.plan`."""
        search = Search(problem, budget, generator)
        may_wait = budget.budget_ms is not None or budget.patience is not None
        half = problem.half_range
        tried = self.tries * budget.samples
        shape = (problem.episodes, tried, problem.horizon, len(problem.low))
        noise = coloured(shape, self.beta, half, generator)
        noise[:, 0] = 0
        actions = problem.start[:, None] + self.sigma * half * noise
        actions = problem.project(actions)
        if self.tries > 1:
            actions = search.sample(actions).best(budget.samples).actions
        first_moment, second_moment = torch.zeros_like(actions), torch.zeros_like(actions)
        multiplier: Tensor | None = None
        scale: Tensor | None = None
        for index in search.iterations():
            with torch.inference_mode(False), torch.enable_grad():
                leaf = actions.clone().requires_grad_()
                evaluation = evaluate_candidates(problem, leaf)
            search.remember(actions, evaluation)
            if index + 1 == budget.iterations:
                break  # the next point would not be evaluated
            if multiplier is None or scale is None:
                violations = evaluation.violations.detach().nan_to_num(0, 0, 0)
                scale = violations.abs().amax(2, keepdim=True)
                scale = torch.where(scale > 0, scale, 1)
                multiplier = torch.zeros_like(violations)
            direction, multiplier = self._direction(evaluation, leaf, multiplier, scale, half)

            first_moment = torch.lerp(direction, first_moment, 0.9)
            second_moment = torch.lerp(direction.square(), second_moment, 0.999)
            rate = self.learning_rate * (1 + math.cos(math.pi * index / budget.iterations)) / 2
            ahead = first_moment / (1 - 0.9 ** (index + 1))
            size = (second_moment / (1 - 0.999 ** (index + 1))).sqrt()
            before = actions
            actions = actions - rate * half * ahead / (size + 1e-8)
            actions = problem.project(actions)
            if may_wait and ((actions - before).abs() <= self.tolerance * half).all():
                search.stop_reason = "converged"
                break
        return search.finish()

    def _direction(
        self,
        evaluation: Evaluation,
        actions: Tensor,
        multiplier: Tensor,
        scale: Tensor,
        half: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Ascent direction [E, S, T, A] in units of the half range, and the next multipliers.

        multiplier [E, S, T, G] and scale [E, S, 1, G] are those of the augmented Lagrangian.
        """
        cost, violations = evaluation.cost, evaluation.violations
        if not (evaluation.trajectory.z.requires_grad and cost.requires_grad):
            what = "the cost" if evaluation.trajectory.z.requires_grad else "the rollout"
            raise ValueError(
                f"the gradient planner needs gradients, but {what} returns tensors without: "
                "remove torch.no_grad, torch.inference_mode or .detach() from it, "
                "or use cem, mppi or cmaes"
            )
        guarded = violations.requires_grad and violations.shape[-1] > 0
        if guarded:
            value = violations.detach().nan_to_num(0, 0, 0) / scale
            multiplier = (multiplier + self.penalty * value).clamp(min=0)
            # Without multipliers the second backward pass changes nothing. Asking is cheap on the
            # CPU; on a GPU it would wait for all that came before.
            if multiplier.device.type == "cpu":
                guarded = bool((multiplier > 0).any())
        # Samples are independent, so the gradient of the sum holds each one's own gradient.
        (slope,) = torch.autograd.grad(
            cost, actions, torch.ones_like(cost), retain_graph=guarded, allow_unused=True
        )
        if slope is None:
            raise ValueError("the cost has a gradient, but not with respect to the actions")
        direction = _unit(slope * half)
        if guarded:
            pull = multiplier / scale
            (slope,) = torch.autograd.grad(violations, actions, pull, allow_unused=True)
            if slope is not None:
                pulled = _unit(direction + (slope * half).nan_to_num(0, 0, 0))
                direction = torch.where((multiplier > 0).any(), pulled, direction)
        return direction, multiplier


def _unit(slope: Tensor) -> Tensor:
    """Each sample's slope [E, S, T, A] with a root mean square of 1; 0 where there is none."""
    # Divided by the largest entry first: squares of large costs' gradients would overflow.
    slope = slope.nan_to_num(0, 0, 0)
    largest = slope.abs().amax((2, 3), keepdim=True)
    slope = torch.where(largest > 0, slope / largest, 0)
    size = slope.square().mean((2, 3), keepdim=True).sqrt()
    return torch.where(size > 0, slope / size, 0)
