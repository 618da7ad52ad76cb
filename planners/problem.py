"""What every planner shares: the problem, the plan, the bounds, the ranking and the last check.

Shapes use E episodes planned together, S samples, T model steps (the horizon), A numbers per
action, G guardrails, P tokens of D channels. A planner never sees a network or a simulator, only
three functions of imagined futures: the rollout, the cost, the guardrails.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor


class Trajectory(NamedTuple):
    """An imagined future, one frame after each action.

    `z` [E, S, T, P, D] are latents; `proprio` [E, S, T, Dp] is in SI units, or None.
    """

    z: Tensor
    proprio: Tensor | None = None


class Guardrail(Protocol):
    """A hard constraint. It returns how far each step violates it; `<= 0` is safe.

    `unit` is the unit of the violation ("m", "rad", …). `tier` is 1 where the promise is
    provable (a function of the actions and of measured quantities) and 2 where it rests on a
    learned model. The gradient planner also uses its gradient, where it has one.
    """

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def tier(self) -> int: ...

    def __call__(self, trajectory: Trajectory, actions: Tensor) -> Tensor:
        """Trajectory and actions [E, S, T, A] -> violation [E, S, T]."""
        ...


@dataclass(frozen=True, eq=False)
class ActionLimits:
    """Limits on actions within their bounds. No model has a say in them: every planner projects
    into them, so they hold for whatever it tries (tier 1).

    before: the robot's action before the first one planned, [E, a]. A planned action of A numbers
        is A / a of the robot's, one after the other.
    norm: largest length of one of these, or None.
    change: largest change of any of its numbers from one to the next, or None.

    Raises ValueError for limits that are not above 0.
    """

    before: Tensor
    norm: float | None = None
    change: float | None = None

    def __post_init__(self) -> None:
        for name, most in (("norm", self.norm), ("change", self.change)):
            if most is not None:
                check_above(name, most, 0)
        if self.before.ndim != 2 or not self.before.isfinite().all():
            raise ValueError(f"before must be finite and of shape [E, a], got {self.before}")
        longest = float(self.before.norm(dim=1).max())
        if self.norm is not None and longest > 1.0001 * self.norm:
            raise ValueError(f"before is {longest:g} long, above the norm {self.norm:g}")

    def project(self, actions: Tensor) -> Tensor:
        """Actions [E, ..., T, A] that keep the limits, close to these."""
        parts = actions.unflatten(-1, (-1, self.before.shape[1]))
        if self.norm is not None:
            length = parts.norm(dim=-1, keepdim=True)
            parts = torch.where(length > self.norm, parts * (self.norm / length * SHY), parts)
        if self.change is not None:
            flat = parts.flatten(-3, -2)  # [E, ..., steps, a]
            last = self.before.to(flat).view(-1, *[1] * (flat.ndim - 3), flat.shape[-1])
            steps = []
            for step in flat.unbind(-2):
                # On the way from the last action to this one, so within bounds if both are.
                move = step - last
                largest = move.abs().amax(-1, keepdim=True)
                share = torch.where(largest > self.change, self.change / largest * SHY, 1.0)
                last = torch.where(share < 1, last + share * move, step)
                steps.append(last)
            parts = torch.stack(steps, -2).view_as(parts)
        return parts.flatten(-2)


SHY = 1 - 1e-6  # of a limit: rounding must not carry an action beyond it


@dataclass(frozen=True, eq=False)
class Problem:
    """One thing to plan, for E episodes at once.

    rollout: actions [E, S, T, A] in physical units -> Trajectory. Deterministic; differentiable
        if the gradient planner is to be used. S differs between calls: 1 in the last check.
    cost: (trajectory, actions) -> [E, S], lower is better. Any scale: only its order (MPPI: its
        relative spread; gradient: its direction) matters.
    low, high: bounds of one action [A], in its own units, finite, low < high.
    warm_start: a first guess [E, T, A], usually the last plan shifted; projected into the bounds.
        Without one, the search starts from the middle of the box.
    idle: an action [A] that leaves things as they are, if there is one. Then the plan of nothing
        else competes, too: close to the goal, no random search finds exact rest by itself.
    limits: what actions have to keep besides their bounds.
    chunk: how many samples are rolled out at once, or None for all of them: what memory allows.
        The gradient planner takes all of its few starts at once.

    Raises ValueError for shapes, bounds or values that cannot be planned with.
    """

    rollout: Callable[[Tensor], Trajectory]
    cost: Callable[[Trajectory, Tensor], Tensor]
    low: Tensor
    high: Tensor
    horizon: int
    episodes: int = 1
    guardrails: tuple[Guardrail, ...] = ()
    warm_start: Tensor | None = None
    idle: Tensor | None = None
    limits: ActionLimits | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        check_count("horizon", self.horizon)
        check_count("episodes", self.episodes)
        if self.chunk is not None:
            check_count("chunk", self.chunk)
        for name, bound in (("low", self.low), ("high", self.high)):
            if not isinstance(bound, Tensor) or bound.ndim != 1 or not len(bound):
                got = tuple(bound.shape) if isinstance(bound, Tensor) else type(bound).__name__
                raise ValueError(f"{name} must be a tensor of shape [A], got {got}")
            if not bound.is_floating_point():
                raise ValueError(f"{name} has dtype {bound.dtype}; use a floating-point tensor")
            if not bound.isfinite().all():
                raise ValueError(f"{name} must be finite, got {bound.tolist()}")
        low, high = self.low, self.high
        if (low.shape, low.dtype, low.device) != (high.shape, high.dtype, high.device):
            raise ValueError(
                "low and high must share shape, dtype and device, got "
                f"{tuple(low.shape)} {low.dtype} {low.device} and "
                f"{tuple(high.shape)} {high.dtype} {high.device}"
            )
        if not (low < high).all():
            at = int((low >= high).nonzero()[0, 0])
            raise ValueError(
                f"low must be below high, but in action dimension {at} "
                f"low is {low[at].item():g} and high is {high[at].item():g}"
            )
        if self.warm_start is not None:
            shape = (self.episodes, self.horizon, len(low))
            if tuple(self.warm_start.shape) != shape:
                raise ValueError(
                    f"warm_start must have shape [episodes, horizon, A] = {shape}, "
                    f"got {tuple(self.warm_start.shape)}"
                )
            if not self.warm_start.isfinite().all():
                raise ValueError("warm_start has values that are not finite; pass None instead")
        if self.idle is not None and (
            self.idle.shape != low.shape or not self.idle.isfinite().all()
        ):
            raise ValueError(
                f"idle must be finite and of shape [A] = {tuple(low.shape)}, "
                f"got {self.idle.tolist()}"
            )
        if self.limits is not None:
            episodes, size = self.limits.before.shape
            if episodes != self.episodes or len(low) % size:
                raise ValueError(
                    f"limits.before has shape {(episodes, size)}: it must be [E, a] for "
                    f"{self.episodes} episodes, a a divisor of A = {len(low)}"
                )
            before = self.limits.before.repeat(1, len(low) // size).to(low)
            if not ((before >= low) & (before <= high)).all():
                raise ValueError(f"limits.before is out of bounds: {self.limits.before.tolist()}")
            if self.limits.norm is not None and not ((low <= 0) & (high >= 0)).all():
                raise ValueError("a limit on the norm needs bounds that 0 is within")

    def project(self, actions: Tensor) -> Tensor:
        """Actions [E, ..., T, A] within bounds and limits, close to these."""
        actions = project(actions, self.low, self.high)
        return actions if self.limits is None else self.limits.project(actions)

    @property
    def start(self) -> Tensor:
        """Where the search starts [E, T, A]: the warm start within the bounds, or mid-box."""
        if self.warm_start is None:
            centre = self.low + self.half_range
            return centre.expand(self.episodes, self.horizon, -1).clone()
        return self.project(self.warm_start.detach().to(self.low))

    @property
    def half_range(self) -> Tensor:
        """(high - low) / 2 [A]: the unit in which planners state step sizes and sigmas."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Budget:
    """How much may be spent on one plan.

    samples: candidate sequences per iteration and episode. For the gradient planner: starts.
    iterations: rounds of sampling. For the gradient planner: points visited per start.
    budget_ms: deadline in milliseconds of wall time, the last check included, or None. An iteration
        that would not fit, judged by the slowest before, is not begun, and the first one is cut
        short. A few samples are always evaluated, so that there is a plan to verify.
    patience: iterations without progress after which the search has converged, or None. Progress
        is a thousandth of what the best of the first samples had ahead of their median, or anything
        while nothing is feasible.
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
    """A sequence of actions together with what its own last check found.

    actions [E, T, A] lie within the bounds. trajectory (z [E, T, P, D], proprio [E, T, Dp]), cost
    [E] and violations [E, T, G] come from rolling out exactly these actions. feasible [E]: every
    violation <= 0 and everything predicted finite. stop_reason: "iterations", "deadline" or
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

    name: ClassVar[str]
    default_budget: ClassVar[Budget]

    def plan(self, problem: Problem, budget: Budget, generator: torch.Generator) -> Plan:
        """Search within the budget; all randomness comes from `generator`, which is on the CPU.

        Raises ValueError where the rollout, cost or a guardrail returns a wrong shape.
        """
        ...


class Evaluation(NamedTuple):
    """What the problem's functions said of some actions: cost [E, S], violations [E, S, T, G]."""

    trajectory: Trajectory
    cost: Tensor
    violations: Tensor


class Candidates(NamedTuple):
    """Sequences to choose among: actions [E, S, T, A], cost [E, S], total violation [E, S].

    violation is 0 where feasible, the sum of what exceeds 0 where not, and infinite where
    something was not finite.
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


def project(actions: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The nearest actions within the bounds; the middle of the box where there is no number."""
    actions = torch.where(actions.isnan(), (low + high) / 2, actions)
    return torch.clamp(actions, low, high)


def evaluate(problem: Problem, actions: Tensor) -> Evaluation:
    """Roll out actions [E, S, T, A] and ask for their cost and violations.

    The only way from a planner to the model, and it projects: no model ever sees an action out
    of bounds. Raises ValueError where a result has the wrong shape.
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
    """Reduce an evaluation to what `rank` needs, with no gradient."""
    cost, violations = evaluation.cost.detach(), evaluation.violations.detach()
    known = cost.isfinite() & violations.isfinite().flatten(2).all(-1)
    # Summed in double precision: a tiny violation must not vanish beside a large one.
    total = violations.double().clamp(min=0).flatten(2).sum(-1)
    return Candidates(actions.detach(), cost.where(known, math.inf), total.where(known, math.inf))


def rank(candidates: Candidates) -> Tensor:
    """Order of candidates [E, S], best first, by (infeasible, total violation, cost).

    Lexicographic, so no scale of the cost can buy a violation. Whatever is not finite comes last.
    """
    # Feasible is a total of exactly 0, so the first two keys are one.
    by_cost = candidates.cost.argsort(dim=1, stable=True)
    by_violation = candidates.violation.gather(1, by_cost).argsort(dim=1, stable=True)
    return by_cost.gather(1, by_violation)


def verify(problem: Problem, actions: Tensor) -> Plan:
    """Roll out exactly actions [E, T, A] once and report what they lead to.

    Also for checking a plan again later, against a problem built from a newer observation.
    Actions out of bounds are projected first; the plan holds what was checked.
    """
    begun = time.perf_counter()
    with torch.no_grad():
        actions = problem.project(actions)
        trajectory, cost, violations = evaluate(problem, actions[:, None])
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
    """One call of `plan`: the clock, the count of model steps and the best sequences seen.

    Lives no longer than that call. `idle` is the sequence of `Problem.idle`, scored once: planners
    that sample let it compete in every iteration, which costs no model steps.
    """

    # A batch of hundreds and a batch of one round differently, so a sequence that only just
    # satisfied a guardrail can fail its last check. A few runners-up are kept for that case.
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
        self.margin: Tensor | None = None  # what counts as progress in each episode
        self.check_ms = 0.0  # what one sequence takes, and so the last check
        self.begun = time.perf_counter()
        self.idle: Candidates | None = None
        if problem.idle is not None:
            idle = problem.idle.to(problem.low)
            self.idle = self._try(idle.expand(problem.episodes, 1, problem.horizon, -1))
            self.check_ms = self._elapsed()

    def iterations(self) -> Iterator[int]:
        """0, 1, …, for as long as the budget lasts and the search gets on."""
        previous, slowest, idle_rounds = self._elapsed(), 0.0, 0
        for index in range(self.budget.iterations):
            now = self._elapsed()
            took, previous = now - previous, now
            # The first one comes in parts, and takes longer than the others.
            slowest = took if index <= 2 else max(slowest, took)
            if index and now + slowest > self._deadline():
                self.stop_reason = "deadline"
                return
            best = self.finalists
            yield index
            idle_rounds = 0 if self._got_on(best) else idle_rounds + 1
            if idle_rounds == self.budget.patience:
                self.stop_reason = "converged"
                return

    def sample(self, actions: Tensor) -> Candidates:
        """Project, evaluate and remember actions [E, S, T, A]; of the first ones, which may take
        longer than there is time, a few, and then as many as fit if all take as long."""
        if self.margin is not None:
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
        self.margin = (0.001 * ahead).nan_to_num(0, 0)
        return tried

    def _try(self, actions: Tensor) -> Candidates:
        """Project, evaluate and remember actions [E, S, T, A], a chunk after the other."""
        actions = self.problem.project(actions)
        chunks = actions.split(self.problem.chunk or actions.shape[1], 1)
        tried = [self.remember(part, evaluate(self.problem, part)) for part in chunks]
        return functools.reduce(Candidates.join, tried)

    def remember(self, actions: Tensor, evaluation: Evaluation) -> Candidates:
        """Score actions [E, S, T, A] that were evaluated, and keep the best."""
        candidates = score(actions, evaluation)
        self.model_calls += math.prod(actions.shape[:3])
        self.finalists = candidates.best(self.FINALISTS).join(self.finalists).best(self.FINALISTS)
        return candidates

    def finish(self) -> Plan:
        """Verify the best sequence seen in each episode, or the next one where that fails."""
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

    def _got_on(self, before: Candidates | None) -> bool:
        """Whether the best sequence of any episode is better than before, by more than little, or
        still breaks a guardrail."""
        if before is None or self.margin is None:
            return True
        assert self.finalists is not None
        gain = before.cost[:, 0] - self.finalists.cost[:, 0]
        return bool(((gain > self.margin) | (self.finalists.violation[:, 0] > 0)).any())

    def _deadline(self) -> float:
        """Milliseconds after the beginning at which the search has to end."""
        if self.budget.budget_ms is None:
            return math.inf
        return self.budget.budget_ms - self.check_ms

    def _elapsed(self) -> float:
        """Milliseconds since the call began."""
        if self.problem.low.is_cuda:  # launches return at once: wait, or the clock sees nothing
            torch.cuda.synchronize(self.problem.low.device)
        return _ms_since(self.begun)


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless value is a whole number of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_at_least(name: str, value: float, least: float) -> None:
    """Raise ValueError unless value is a number >= least."""
    if not isinstance(value, int | float) or not value >= least:
        raise ValueError(f"{name} must be a number of at least {least}, got {value!r}")


def check_above(name: str, value: float, least: float) -> None:
    """Raise ValueError unless value is a number > least."""
    if not isinstance(value, int | float) or not value > least:
        raise ValueError(f"{name} must be a number above {least}, got {value!r}")


def check_between(name: str, value: float, least: float, most: float) -> None:
    """Raise ValueError unless value is a number from least to most."""
    if not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{name} must be a number from {least} to {most}, got {value!r}")


def _ms_since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1e3
