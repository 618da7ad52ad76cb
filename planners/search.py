"""What all searches share: evaluating, ranking and verifying sequences of actions."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from .plan import Budget, Plan
from .problem import Problem, Trajectory


class Evaluation(NamedTuple):
    """Results of the problem's functions for some actions: cost [E, S], violations [E, S, T, G]."""

    trajectory: Trajectory
    cost: Tensor
    violations: Tensor


class Candidates(NamedTuple):
    """Sequences to choose from: actions [E, S, T, A], cost [E, S], total violation [E, S].

    violation is 0 where feasible, the sum of what exceeds 0 where infeasible, and infinite where
    a result was not finite.
    """

    actions: Tensor
    cost: Tensor
    violation: Tensor

    def take(self, index: Tensor) -> Candidates:
        """The candidates at index [E, K]."""
        at = index[..., None, None].expand(-1, -1, *self.actions.shape[2:])
        return Candidates(
            self.actions.gather(1, at), self.cost.gather(1, index), self.violation.gather(1, index)
        )

    def best(self, count: int) -> Candidates:
        """The first `count` candidates by `rank`, best first."""
        return self.take(rank(self)[:, :count])

    def join(self, other: Candidates | None) -> Candidates:
        """These candidates followed by others."""
        if other is None:
            return self
        return Candidates(*(torch.cat(pair, 1) for pair in zip(self, other, strict=True)))


def evaluate_candidates(problem: Problem, actions: Tensor) -> Evaluation:
    """Roll out actions [E, S, T, A]; compute their cost and violations.

    The only way from a planner to the model. It projects, so no model ever sees an action out of
    bounds. Raises ValueError where a result has the wrong shape.
    """
    actions = problem.project(actions)
    trajectory = problem.rollout(actions)
    shape = tuple(actions.shape[:3])
    if tuple(trajectory.z.shape[:3]) != shape:
        raise ValueError(
            f"rollout must return z of shape [E, S, T, P, D] beginning with {shape}, "
            f"got {tuple(trajectory.z.shape)}"
        )
    cost = problem.cost(trajectory, actions)
    if tuple(cost.shape) != shape[:2]:
        raise ValueError(f"cost must return [E, S] = {shape[:2]}, got {tuple(cost.shape)}")
    violations = [guardrail(trajectory, actions) for guardrail in problem.guardrails]
    for guardrail, violation in zip(problem.guardrails, violations, strict=True):
        if tuple(violation.shape) != shape:
            raise ValueError(
                f"guardrail {guardrail.name!r} must return [E, S, T] = {shape}, "
                f"got {tuple(violation.shape)}"
            )
    stacked = torch.stack(violations, -1) if violations else cost.new_zeros(*shape, 0)
    return Evaluation(trajectory, cost, stacked)


def score(actions: Tensor, evaluation: Evaluation) -> Candidates:
    """Reduce an evaluation to what `rank` needs, without gradients."""
    cost, violations = evaluation.cost.detach(), evaluation.violations.detach()
    known = cost.isfinite() & violations.isfinite().flatten(2).all(-1)
    # Summed in double precision: a tiny violation must not vanish beside a large one.
    total = violations.double().clamp(min=0).flatten(2).sum(-1)
    return Candidates(actions.detach(), cost.where(known, math.inf), total.where(known, math.inf))


def rank(candidates: Candidates) -> Tensor:
    """Order of candidates [E, S], best first, by (infeasible, total violation, cost).

    Feasible candidates rank before infeasible ones, whatever their cost (Wen and Topcu, 2018).
    Those with results that are not finite come last.
    """
    # Feasible is a total of exactly 0, so the first two keys are one.
    by_cost = candidates.cost.argsort(dim=1, stable=True)
    by_violation = candidates.violation.gather(1, by_cost).argsort(dim=1, stable=True)
    return by_cost.gather(1, by_violation)


def verify(problem: Problem, actions: Tensor) -> Plan:
    """Roll out exactly actions [E, T, A] once and report the results.

    Also checks an earlier plan again, against a problem built from a newer observation. Actions out
    of bounds are projected first; the plan holds the projected ones.
    """
    begun = time.perf_counter()
    with torch.no_grad():
        actions = problem.project(actions)
        trajectory, cost, violations = evaluate_candidates(problem, actions[:, None])
        z = trajectory.z[:, 0]
        proprio = None if trajectory.proprio is None else trajectory.proprio[:, 0]
        cost, violations = cost[:, 0], violations[:, 0]
        known = cost.isfinite() & z.isfinite().flatten(1).all(1)
        if proprio is not None:
            known &= proprio.isfinite().flatten(1).all(1)
        safe = (violations.isfinite() & (violations <= 0)).flatten(1).all(1)
    spent = _ms_since(begun)
    return Plan(
        actions=actions,
        trajectory=Trajectory(z, proprio),
        cost=cost,
        violations=violations,
        feasible=known & safe,
        stop_reason="verified",
        timings={"search": 0.0, "verify": spent, "total": spent},
        model_calls=problem.episodes * problem.horizon,
    )


def merge(plan: Plan, other: Plan, use_other: Tensor) -> Plan:
    """The plan, with the episodes where use_other [E] taken from the other one."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(use_other.view(-1, *[1] * (a.ndim - 1)), b, a)

    (z, proprio), (other_z, other_proprio) = plan.trajectory, other.trajectory
    if proprio is not None and other_proprio is not None:
        proprio = pick(proprio, other_proprio)
    return replace(
        plan,
        actions=pick(plan.actions, other.actions),
        trajectory=Trajectory(pick(z, other_z), proprio),
        cost=pick(plan.cost, other.cost),
        violations=pick(plan.violations, other.violations),
        feasible=pick(plan.feasible, other.feasible),
    )


class Search:
    """State of one call of `plan`: the clock, the count of model steps, the best sequences so far.

    `hold` is `Problem.hold` for the whole horizon, evaluated once: planners that sample let it
    compete in every iteration, which costs no model steps.

    Reads no result back from a GPU unless the budget has a deadline or a patience.
    """

    # A batch of hundreds and a batch of one round differently, so a sequence that only just
    # satisfied a guardrail can fail its verification. A few runners-up stand by for that case.
    FINALISTS = 4
    FEW = 16  # samples that are evaluated whatever the deadline

    def __init__(self, problem: Problem, budget: Budget, generator: torch.Generator) -> None:
        if generator.device.type != "cpu":
            raise ValueError(f"generator must be on the CPU, not on {generator.device}")
        self.problem = problem
        self.budget = budget
        self.stop_reason = "iterations"
        self.model_calls = 0
        self.finalists: Candidates | None = None
        self.least_gain: Tensor | None = None  # what counts as progress in each episode
        self.verify_ms = 0.0  # time for one sequence, and so for the final verification
        self.begun = time.perf_counter()
        self.hold: Candidates | None = None
        if problem.hold is not None:
            hold = problem.hold.to(problem.low).expand(problem.episodes, -1)
            self.hold = self._try(hold[:, None, None].expand(-1, 1, problem.horizon, -1))
            if budget.budget_ms is not None:
                self.verify_ms = self._elapsed()

    def iterations(self) -> Iterator[int]:
        """0, 1, …, until the budget is spent or the search has converged."""
        timed = self.budget.budget_ms is not None
        previous, slowest, without_progress = self._elapsed() if timed else 0.0, 0.0, 0
        for index in range(self.budget.iterations):
            if timed:
                now = self._elapsed()
                took, previous = now - previous, now
                # The first one comes in parts, and takes longer than the others.
                slowest = took if index <= 2 else max(slowest, took)
                if index and now + slowest > self._deadline():
                    self.stop_reason = "deadline"
                    return
            best = self.finalists
            yield index
            if self.budget.patience is not None:
                without_progress = 0 if self._progressed(best) else without_progress + 1
                if without_progress == self.budget.patience:
                    self.stop_reason = "converged"
                    return

    def sample(self, actions: Tensor) -> Candidates:
        """Project and evaluate actions [E, S, T, A], and remember the best.

        The first call may have no time for all of them: it evaluates a few, then as many as fit.
        """
        if self.least_gain is not None:
            return self._try(actions)
        size = actions.shape[1] if self.budget.budget_ms is None else self.FEW
        tried = self._try(actions[:, :size])
        while (known := tried.cost.shape[1]) < actions.shape[1]:
            left = self._deadline() - self._elapsed()
            fits = int(known * left / self._elapsed())
            if fits < 1:
                break
            tried = tried.join(self._try(actions[:, known : known + fits]))
        ahead = tried.cost.median(1).values - tried.cost.amin(1)
        self.least_gain = (0.001 * ahead).nan_to_num(0, 0)
        return tried

    def _try(self, actions: Tensor) -> Candidates:
        """Project, evaluate and remember actions [E, S, T, A], one chunk after the other."""
        actions = self.problem.project(actions)
        chunks = actions.split(self.problem.chunk or actions.shape[1], 1)
        tried = [self.remember(part, evaluate_candidates(self.problem, part)) for part in chunks]
        return functools.reduce(Candidates.join, tried)

    def remember(self, actions: Tensor, evaluation: Evaluation) -> Candidates:
        """Score actions [E, S, T, A] that were evaluated, and keep the best."""
        candidates = score(actions, evaluation)
        self.model_calls += math.prod(actions.shape[:3])
        self.finalists = candidates.best(self.FINALISTS).join(self.finalists).best(self.FINALISTS)
        return candidates

    def finish(self) -> Plan:
        """Verify the best sequence of each episode, or the next one where that fails."""
        assert self.finalists is not None, "a search always evaluates at least one batch"
        search_ms = self._elapsed()
        plan = verify(self.problem, self.finalists.actions[:, 0])
        model_calls = self.model_calls + plan.model_calls
        for k in range(1, self.finalists.cost.shape[1]):
            promising = ~plan.feasible & (self.finalists.violation[:, k] <= 0)
            deadline = self.budget.budget_ms
            if not promising.any() or (deadline is not None and self._elapsed() > deadline):
                break
            other = verify(self.problem, self.finalists.actions[:, k])
            model_calls += other.model_calls
            plan = merge(plan, other, promising & other.feasible)
        total_ms = self._elapsed()
        return replace(
            plan,
            stop_reason=self.stop_reason,
            timings={"search": search_ms, "verify": total_ms - search_ms, "total": total_ms},
            model_calls=model_calls,
        )

    def _progressed(self, before: Candidates | None) -> bool:
        """Whether the last iteration made progress: see `Budget.patience`."""
        if before is None or self.least_gain is None:
            return True
        assert self.finalists is not None
        gain = before.cost[:, 0] - self.finalists.cost[:, 0]
        return bool(((gain > self.least_gain) | (self.finalists.violation[:, 0] > 0)).any())

    def _deadline(self) -> float:
        """Milliseconds after the beginning at which the search has to end."""
        if self.budget.budget_ms is None:
            return math.inf
        return self.budget.budget_ms - self.verify_ms

    def _elapsed(self) -> float:
        """Milliseconds since the call began."""
        if self.problem.low.is_cuda:  # launches return at once: wait, or the clock reads too little
            torch.cuda.synchronize(self.problem.low.device)
        return _ms_since(self.begun)


def _ms_since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1e3
