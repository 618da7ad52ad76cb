"""Guarantees of every planner, on problems with known optima."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import planners
from planners import ActionLimits, Budget, Candidates, Plan, Problem, Trajectory
from planners import guardrails as rails
from planners.noise import coloured
from planners.search import Search

NAMES = list(planners.PLANNERS)
RETURNS = ("best", "mean")
each_planner = pytest.mark.parametrize("name", NAMES)
Cost = Callable[[Trajectory, Tensor], Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plan(name: str, problem: Problem, seed: int = 0, **options: float) -> Plan:
    planner = planners.make(name, **options)
    return planner.plan(problem, planner.default_budget, seeded(seed))


def as_latents(actions: Tensor) -> Trajectory:
    """A rollout that returns its actions: z [E, S, T, 1, A]."""
    return Trajectory(actions[..., None, :])


def squared_distance(target: Tensor, scale: float = 1.0) -> Cost:
    """Squared distance to a target that broadcasts against [E, S, T, A]."""
    return lambda _, actions: scale * (actions - target).square().sum((-1, -2))


def quadratic(target: Tensor, horizon: int = 3, **changes: object) -> Problem:
    bound = torch.ones(target.shape[-1])
    options: dict = {"low": -bound, "high": bound, "horizon": horizon} | changes
    return Problem(as_latents, squared_distance(target), **options)


@dataclass
class Recorder:
    """A rollout that records every action."""

    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, actions: Tensor) -> Trajectory:
        self.seen.append(actions.detach().clone())
        return as_latents(actions)


@dataclass(frozen=True)
class Disc:
    """Stay out of a disc in the plane of z: a feasible set that is not convex."""

    centre: tuple[float, float] = (0.5, 0.0)
    radius: float = 0.25
    name: str = "disc"
    unit: str = "m"
    tier: int = 2

    def __call__(self, trajectory: Trajectory, actions: Tensor) -> Tensor:
        offset = trajectory.z[..., 0, :] - torch.tensor(self.centre)
        return self.radius - offset.norm(dim=-1)


@dataclass(frozen=True)
class Rule:
    """Any function of the actions as a guardrail."""

    rule: Callable[[Tensor], Tensor]
    name: str = "rule"
    unit: str = "1"
    tier: int = 1

    def __call__(self, trajectory: Trajectory, actions: Tensor) -> Tensor:
        return self.rule(actions)


def point(scale: float = 1.0, episodes: int = 1, radius: float = 0.25) -> Problem:
    """Move a point from (0, 0) to (1, 0), with a disc in the way."""

    def cost(trajectory: Trajectory, actions: Tensor) -> Tensor:
        last = trajectory.z[..., -1, 0, :]
        return scale * (last - torch.tensor([1.0, 0.0])).square().sum(-1)

    bound = torch.full((2,), 0.3)
    return Problem(
        rollout=lambda actions: as_latents(actions.cumsum(2)),
        cost=cost,
        low=-bound,
        high=bound,
        horizon=8,
        episodes=episodes,
        guardrails=(Disc(radius=radius),),
    )


# ---- They find the optimum ----------------------------------------------------------------------


@each_planner
def test_quadratic_optimum(name: str) -> None:
    target = torch.tensor([0.3, -0.6])
    found = plan(name, quadratic(target))
    assert found.feasible.all()
    assert found.cost.item() < 0.05
    assert (found.actions - target).abs().max() < 0.2


@each_planner
def test_double_integrator_approaches_the_exact_optimum(name: str) -> None:
    steps, dt, effort, goal = 10, 0.3, 0.02, torch.tensor([1.0, 0.0])

    def rollout(actions: Tensor) -> Trajectory:
        speed = (actions * dt).cumsum(2)
        place = ((speed - actions * dt / 2) * dt).cumsum(2)
        return Trajectory(place[..., None, :], speed)

    def cost(trajectory: Trajectory, actions: Tensor) -> Tensor:
        assert trajectory.proprio is not None
        end = torch.cat([trajectory.z[..., -1, 0, :], trajectory.proprio[..., -1, :]], -1)
        miss = (end - goal).square().sum(-1)
        return miss + effort * actions.square().sum((-1, -2))

    # The end is linear in the actions, so the unbounded optimum is a least-squares solution.
    ahead = np.arange(steps - 1, -1, -1)
    end = np.stack([dt * dt * (ahead + 0.5), np.full(steps, dt)])
    best = np.linalg.solve(end.T @ end + effort * np.eye(steps), end.T @ goal.numpy())
    optimum = np.square(end @ best - goal.numpy()).sum() + effort * np.square(best).sum()
    assert np.abs(best).max() < 1  # so the bounds below do not matter

    one = torch.ones(1)
    found = plan(name, Problem(rollout, cost, -one, one, steps))
    assert optimum - 1e-5 <= found.cost.item() < optimum + 0.03


@each_planner
def test_optimum_on_the_edge_of_the_box(name: str) -> None:
    found = plan(name, quadratic(torch.tensor([5.0, -5.0])))
    edge = torch.tensor([1.0, -1.0]).expand(1, 3, 2)
    assert (found.actions - edge).abs().max() < 0.05
    assert (found.actions.abs() <= 1).all()


@each_planner
def test_one_action_of_one_number(name: str) -> None:
    found = plan(name, quadratic(torch.tensor([0.4]), horizon=1))
    assert found.actions.item() == pytest.approx(0.4, abs=0.05)


@each_planner
def test_the_hold_action_wins_where_it_is_best(name: str) -> None:
    """With a search too small to find it, and a warm start elsewhere."""
    away = torch.full((2, 3, 2), 0.8)
    few = Budget(samples=4, iterations=1)
    rest = torch.tensor([0.25, -0.5])
    found = []
    for hold in (None, rest):
        problem = quadratic(rest, warm_start=away, episodes=2, hold=hold)
        found.append(planners.make(name).plan(problem, few, seeded()).actions)
    assert (found[0] - rest).abs().amax() > 0.05
    torch.testing.assert_close(found[1], rest.expand(2, 3, 2), rtol=0, atol=0)
    elsewhere = quadratic(away[0, 0], warm_start=away, episodes=2, hold=rest)
    stays = planners.make(name).plan(elsewhere, few, seeded()).actions
    torch.testing.assert_close(stays, away, rtol=0, atol=1e-6)
    for wrong in (torch.zeros(3), torch.tensor([0.0, math.nan])):
        with pytest.raises(ValueError, match="hold must be finite and of shape"):
            quadratic(rest, hold=wrong)


@pytest.mark.parametrize("name", ["cem", "mppi"])
def test_the_hold_action_draws_samples_towards_it(name: str) -> None:
    """The optimum is next to rest, and too far from the warm start for so short a search."""
    rest, optimum = torch.zeros(2), torch.full((2,), 0.1)
    away = torch.full((4, 3, 2), 0.9)
    cost = {}
    for hold in (None, rest):
        problem = quadratic(optimum, warm_start=away, episodes=4, hold=hold)
        planner = planners.make(name, sigma=0.1)
        cost[hold is None] = planner.plan(problem, Budget(samples=32, iterations=4), seeded()).cost
    resting = planners.verify(quadratic(optimum, episodes=4), torch.zeros(4, 3, 2)).cost
    assert (cost[False] < 0.8 * resting).all()  # it went on from there
    assert (cost[True] > resting).all()


@each_planner
@given(seed=st.integers(0, 2**32))
@settings(max_examples=8, deadline=None)
def test_never_worse_than_the_warm_start(name: str, seed: int) -> None:
    warm = torch.rand(2, 3, 2, generator=seeded(seed)) * 2 - 1
    problem = quadratic(warm[:, None] + 0.01, episodes=2, warm_start=warm)
    planner = planners.make(name)
    found = planner.plan(problem, Budget(samples=4, iterations=2), seeded(seed))
    assert (found.cost <= planners.verify(problem, warm).cost).all()


@each_planner
def test_episodes_together_are_as_good_as_alone(name: str) -> None:
    targets = torch.tensor([[0.5, 0.5], [-0.8, 0.1], [0.0, -0.4]])
    together = plan(name, quadratic(targets[:, None, None], episodes=3))
    alone = torch.cat([plan(name, quadratic(target)).cost for target in targets])
    assert together.actions.shape == (3, 3, 2)
    assert together.trajectory.z.shape == (3, 3, 1, 2)
    assert (together.cost < 0.05).all() and (alone < 0.05).all()
    assert (together.actions - targets[:, None]).abs().max() < 0.2


# ---- They are stateless and reproducible --------------------------------------------------------


@each_planner
def test_the_seed_decides_the_plan_and_nothing_else_is_touched(name: str) -> None:
    def numpy_state() -> np.ndarray:
        return np.array(np.random.get_state(legacy=False)["state"]["key"])

    problem = point(episodes=2)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), numpy_state()
    planner = planners.make(name)
    budget = Budget(samples=16, iterations=4)
    first, other, again = (planner.plan(problem, budget, seeded(s)) for s in (3, 4, 3))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], numpy_state())
    assert torch.equal(first.actions, again.actions)
    assert not torch.equal(first.actions, other.actions)


@each_planner
def test_nothing_is_printed_or_written(
    name: str, capfd: pytest.CaptureFixture[str], tmp_path, monkeypatch, recwarn
) -> None:
    monkeypatch.chdir(tmp_path)
    plan(name, quadratic(torch.zeros(2)))
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir()) and not recwarn.list


@each_planner
def test_scale_of_the_cost_changes_nothing(name: str) -> None:
    # A power of two scales every float exactly, so even the last bit must agree.
    plain, scaled = plan(name, point()), plan(name, point(2.0**20))
    assert torch.equal(plain.actions, scaled.actions)
    assert torch.equal(plain.violations, scaled.violations)


@each_planner
def test_model_calls_are_the_steps_the_model_took(name: str) -> None:
    world = Recorder()
    one = torch.ones(2)
    problem = Problem(world, squared_distance(0.2 * one), -one, one, 3, episodes=2)
    found = planners.make(name).plan(problem, Budget(samples=10, iterations=4), seeded())
    assert found.model_calls == sum(math.prod(actions.shape[:3]) for actions in world.seen)
    tries = 10 * planners.make("gradient").tries if name == "gradient" else 0
    assert found.model_calls == 2 * 3 * (tries + 10 * 4 + 1)
    assert found.stop_reason == "iterations"
    assert found.timings["total"] >= found.timings["search"] > 0
    assert not found.cost.requires_grad and not found.trajectory.z.requires_grad


# ---- No model ever sees an action out of bounds -------------------------------------------------

ADVERSARIAL: dict[str, Cost] = {
    "far outside": squared_distance(torch.tensor(1e6)),
    "nan": lambda _, actions: actions.sum((-1, -2)) * math.nan,
    "half nan": lambda _, actions: actions.sum((-1, -2)).log(),
    "infinite slope": lambda _, actions: actions.abs().sqrt().sum((-1, -2)) * 1e30,
    "flat": lambda _, actions: actions.sum((-1, -2)) * 0,
    "minus infinity": lambda _, actions: actions.sum((-1, -2)) - math.inf,
}


@each_planner
@given(
    cost=st.sampled_from(sorted(ADVERSARIAL)),
    sigma=st.sampled_from([0.1, 1.0, 1e6, 1e30]),
    low=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=3),
    width=st.floats(2**-7, 2**10, width=32),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=25, deadline=None)
def test_every_action_the_model_sees_is_within_bounds(
    name: str, cost: str, sigma: float, low: list[float], width: float, seed: int
) -> None:
    world = Recorder()
    lowest = torch.tensor(low)
    warm = 1e5 * torch.randn(2, 3, len(low), generator=seeded(seed))
    problem = Problem(world, ADVERSARIAL[cost], lowest, lowest + width, 3, 2, warm_start=warm)
    planner = planners.make(name, sigma=sigma)
    found = planner.plan(problem, Budget(samples=6, iterations=3), seeded(seed))
    for actions in [*world.seen, found.actions]:
        assert (actions >= problem.low).all() and (actions <= problem.high).all()
    assert torch.equal(world.seen[-1][:, 0], found.actions) or len(world.seen) > 4


def test_project() -> None:
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 4.0])
    actions = torch.tensor([[math.nan, math.inf], [-math.inf, 1.5]])
    assert planners.project(actions, low, high).tolist() == [[0.0, 4.0], [-1.0, 1.5]]


def test_cem_returns_the_mean_of_the_elites_if_asked_and_if_it_is_safe() -> None:
    # Two optima: among the elites of one iteration are both, and in their middle is neither.
    problem = quadratic(torch.zeros(1), 1)
    problem = replace(problem, cost=lambda _, actions: (actions.abs() - 0.5).square().sum((-1, -2)))
    once = Budget(samples=1000, iterations=1)
    best, mean = (planners.make("cem", returns=r).plan(problem, once, seeded()) for r in RETURNS)
    assert best.cost < 0.001 and mean.cost > 0.1
    assert mean.model_calls == best.model_calls + problem.horizon
    # Straight through the disc is the mean of the ways round it.
    problem = replace(point(), guardrails=())
    mean_of_elites = planners.make("cem", returns="mean")
    through = mean_of_elites.plan(problem, Budget(300, 10), seeded())
    assert not planners.verify(point(), through.actions).feasible.any()
    assert mean_of_elites.plan(point(), Budget(300, 10), seeded()).feasible.all()


# ---- Guardrails ---------------------------------------------------------------------------------


@each_planner
@pytest.mark.parametrize("seed", range(3))
def test_goes_around_an_obstacle(name: str, seed: int) -> None:
    problem = point(episodes=2)
    straight = torch.tensor([1 / 8, 0.0]).expand(2, 8, 2)
    assert not planners.verify(problem, straight).feasible.any()
    found = plan(name, problem, seed)
    assert found.feasible.all() and (found.violations <= 0).all()
    assert (found.cost < 0.05).all()  # past the disc; stopping before it costs 0.56
    again = problem.rollout(found.actions[:, None])
    recomputed = Disc()(again, found.actions[:, None])[:, 0]
    assert torch.equal(found.violations[..., 0], recomputed)


@each_planner
@pytest.mark.parametrize("radius", [0.1, 0.3, 0.45])
def test_a_million_times_the_cost_changes_no_decision_about_safety(
    name: str, radius: float
) -> None:
    for seed in range(2):
        plans = []
        for scale in (1.0, 1e6):
            plans.append(plan(name, point(scale, radius=radius), seed))
        assert torch.equal(plans[0].feasible, plans[1].feasible)
        assert torch.equal(plans[0].violations <= 0, plans[1].violations <= 0)


@each_planner
def test_an_infeasible_problem_is_reported_and_violated_least(name: str) -> None:
    # Safe only below -2, out of the box; the cost pulls the other way, a million times over.
    impossible = Rule(lambda actions: actions[..., 0] + 2)
    problem = quadratic(torch.tensor([1.0]), guardrails=(impossible,))
    object.__setattr__(problem, "cost", squared_distance(torch.tensor([1.0]), 1e6))
    found = plan(name, problem)
    assert not found.feasible.any()
    assert found.actions.max() < -0.9
    assert torch.equal(found.violations[..., 0], found.actions[..., 0] + 2)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_units_of_a_guardrail_do_not_matter_to_the_gradient(unit: float) -> None:
    wall = Rule(lambda actions: (actions[..., 0] - 0.2) * unit)
    found = plan("gradient", quadratic(torch.tensor([0.8, 0.3]), guardrails=(wall,)))
    assert found.feasible.all()
    assert found.cost.item() < 1.5 * 3 * 0.6**2  # close to the wall, which is the best there is


def test_a_guardrail_without_gradient_still_ranks() -> None:
    step = Rule(lambda actions: (actions[..., 0].detach() > 0).float() - 0.5)
    found = plan("gradient", quadratic(torch.tensor([0.1]), guardrails=(step,), horizon=1))
    assert found.feasible.all() and found.actions.item() <= 0


@each_planner
def test_nan_from_a_guardrail_is_a_violation(name: str) -> None:
    # No number where the cost is lowest; such samples must lose to any that can be checked.
    hole = Rule(lambda a: torch.where(a[..., 0] > 0.5, math.nan, a[..., 0] - 0.6))
    found = plan(name, quadratic(torch.tensor([0.9]), guardrails=(hole,)))
    assert found.feasible.all() and found.actions.max() <= 0.5


def test_a_sequence_that_fails_verification_is_replaced_by_the_next() -> None:
    def rule(actions: Tensor) -> Tensor:
        alone = actions.shape[1] == 1  # as if one sample alone were rounded differently
        return actions[..., 0] - (0.5 if alone else 0.7)

    problem = quadratic(torch.tensor([1.0]), horizon=1, episodes=2, guardrails=(Rule(rule),))
    search = Search(problem, Budget(), seeded())
    search.sample(torch.tensor([[0.6, 0.65, 0.4, 0.8], [0.1, 0.2, 0.3, -0.1]])[..., None, None])
    found = search.finish()
    assert found.actions.flatten().tolist() == pytest.approx([0.4, 0.3])
    assert found.feasible.all() and (found.violations <= 0).all()
    assert found.trajectory.z.flatten().tolist() == pytest.approx([0.4, 0.3])

    search = Search(problem, Budget(), seeded())
    search.sample(torch.tensor([[0.6, 0.65], [0.7, 0.3]])[..., None, None])
    assert search.finish().feasible.tolist() == [False, True]


numbers = st.one_of(st.floats(-5, 5, width=32), st.sampled_from([math.nan, math.inf, -math.inf]))


@given(samples=st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=8))
def test_rank_is_feasible_first(samples: list[tuple[float, float, float]]) -> None:
    cost, *violations = torch.tensor(samples).T
    stacked = torch.stack(violations, -1)[None, :, None]
    evaluation = planners.Evaluation(as_latents(stacked), cost[None], stacked)
    order = planners.rank(planners.score(stacked, evaluation))[0].tolist()

    def key(index: int) -> tuple[bool, bool, float, float]:
        values = samples[index]
        if not all(map(math.isfinite, values)):
            return True, True, 0, 0
        total = sum(max(v, 0) for v in values[1:])
        return False, total > 0, total, values[0]

    assert sorted(order) == list(range(len(samples)))
    assert [key(index) for index in order] == sorted(key(i) for i in range(len(samples)))


# ---- When things go wrong -----------------------------------------------------------------------


@each_planner
def test_nan_everywhere_is_no_plan(name: str) -> None:
    def rollout(actions: Tensor) -> Trajectory:
        return as_latents(actions * math.nan)

    def cost(trajectory: Trajectory, actions: Tensor) -> Tensor:
        return trajectory.z.sum((-1, -2, -3))

    one = torch.ones(2)
    found = plan(name, Problem(rollout, cost, -one, one, 3, episodes=2))
    assert found.feasible.tolist() == [False, False]
    assert found.actions.isfinite().all()


@each_planner
def test_nan_that_the_cost_ignores_is_no_plan(name: str) -> None:
    one = torch.ones(2)
    problem = Problem(
        lambda actions: Trajectory(actions[..., None, :], actions * math.nan),
        squared_distance(one),
        -one,
        one,
        3,
    )
    assert not plan(name, problem).feasible.any()


@each_planner
def test_one_episode_of_nan_does_not_spoil_the_others(name: str) -> None:
    target = torch.tensor([[math.nan, 0.0], [0.5, -0.5]])[:, None, None]
    found = plan(name, quadratic(target, episodes=2))
    assert found.feasible.tolist() == [False, True]
    assert found.cost[1] < 0.05


@each_planner
def test_a_plan_at_the_deadline_is_verified(name: str) -> None:
    world = Recorder()
    one = torch.ones(2)
    problem = Problem(world, squared_distance(one), -one, one, 3)
    budget = Budget(samples=8, iterations=10**6, budget_ms=0)
    found = planners.make(name).plan(problem, budget, seeded())
    assert found.stop_reason == "deadline"
    # A few samples (the gradient planner's starts were tried before), and the best once more.
    assert len(world.seen) == (3 if name == "gradient" else 2)
    assert found.feasible.all()
    assert torch.equal(world.seen[-1][:, 0], found.actions)


@pytest.mark.parametrize("name", ["cem", "mppi"])
def test_deadline_in_the_middle_keeps_the_best_so_far(name: str) -> None:
    problem = quadratic(torch.tensor([0.3, 0.3]))
    budget = Budget(samples=64, iterations=10**9, budget_ms=50)
    found = planners.make(name).plan(problem, budget, seeded())
    assert found.stop_reason == "deadline" and found.model_calls > 2 * 64 * 3
    assert found.cost < 0.3


@dataclass
class Clock:
    """A clock by which every sample takes a millisecond and everything else no time."""

    now: float = 0.0

    def perf_counter(self) -> float:
        return self.now

    def __call__(self, actions: Tensor) -> Tensor:
        self.now += 1e-3 * actions.shape[1]
        return as_latents(actions)


@each_planner
@pytest.mark.parametrize("budget_ms", [5, 30, 47, 200, 1000])
def test_the_verification_is_within_the_deadline(
    name: str, budget_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("planners.search.time", clock)
    one, samples = torch.ones(2), 8 if name == "gradient" else 40
    problem = Problem(
        clock, squared_distance(0.3 * one), -one, one, 3, hold=torch.zeros(2), warm_start=None
    )
    found = planners.make(name).plan(problem, Budget(samples, 10**6, budget_ms), seeded())
    assert found.stop_reason == "deadline" or name in ("cmaes", "gradient")
    few = 1 + Search.FEW + 1  # hold and the verification
    first = samples if name == "gradient" else 0  # it always takes a first look at its starts
    assert found.timings["total"] <= max(budget_ms, few) + first + 1e-6
    if found.stop_reason == "deadline":  # nor does it give up much too early
        assert found.timings["total"] > budget_ms - 2 * samples
    assert found.feasible.all()


@pytest.mark.parametrize("name", ["cem", "mppi"])
def test_patience_ends_a_search_without_progress(name: str) -> None:
    for scale in (1e-6, 1.0, 1e6):  # in whatever units
        problem = replace(
            quadratic(torch.tensor([0.3, -0.4])),
            cost=squared_distance(torch.tensor([0.3, -0.4]), scale),
        )
        planner = planners.make(name)
        found = planner.plan(problem, Budget(64, 500, patience=3), seeded())
        assert found.stop_reason == "converged"
        assert found.model_calls < 64 * 3 * 30
        assert found.cost < 0.05 * scale
    endless = planner.plan(problem, Budget(64, 40), seeded())
    assert endless.stop_reason == "iterations" and endless.model_calls > 64 * 3 * 40


def test_patience_waits_while_nothing_is_feasible() -> None:
    wall = Rule(lambda actions: actions[..., 0] + 2)  # nothing can
    found = planners.make("cem").plan(
        quadratic(torch.tensor([0.3]), guardrails=(wall,)), Budget(8, 20, patience=2), seeded()
    )
    assert found.stop_reason == "iterations" and not found.feasible.any()


@each_planner
@pytest.mark.parametrize("chunk", [1, 3, 64, 1000])
def test_chunks_change_nothing(name: str, chunk: int) -> None:
    world = Recorder()
    whole = quadratic(torch.tensor([0.3, -0.4]), episodes=2, hold=torch.zeros(2))
    chunked = replace(whole, rollout=world, chunk=chunk)
    budget = Budget(50, 4)
    if name == "gradient":
        budget = Budget(3, 5)
    a, b = (planners.make(name).plan(p, budget, seeded()) for p in (whole, chunked))
    assert torch.equal(a.actions, b.actions) and torch.equal(a.cost, b.cost)
    assert a.model_calls == b.model_calls
    assert max(seen.shape[1] for seen in world.seen) <= max(chunk, 3 if name == "gradient" else 0)


@pytest.mark.parametrize("name", ["cmaes", "gradient"])
def test_stops_once_converged(name: str) -> None:
    found = planners.make(name).plan(
        quadratic(torch.tensor([9.0]), horizon=1),
        Budget(samples=8, iterations=500, budget_ms=5000),
        seeded(),
    )
    assert found.stop_reason == "converged"
    assert found.actions.item() == 1


def test_a_function_without_gradient_is_named() -> None:
    one = torch.ones(2)
    cut = Problem(lambda a: as_latents(a.detach()), squared_distance(one), -one, one, 3)
    with pytest.raises(ValueError, match="the rollout returns tensors without"):
        plan("gradient", cut)
    blind = Problem(as_latents, lambda _, a: a.detach().sum((-1, -2)), -one, one, 3)
    with pytest.raises(ValueError, match="the cost returns tensors without"):
        plan("gradient", blind)


def test_gradient_starts_from_its_best_samples() -> None:
    """Downhill from the middle lies a shallow valley; the deep one is off to the side."""
    one = torch.ones(1)

    def cost(trajectory: Trajectory, actions: torch.Tensor) -> torch.Tensor:
        x = actions[..., 0, 0]
        return torch.minimum((x + 0.1).square() + 0.1, (x - 0.8).square())

    problem = Problem(as_latents, cost, -one, one, 1)
    near, far = (
        planners.make("gradient", tries=tries).plan(problem, Budget(1, 40), seeded())
        for tries in (1, 30)
    )
    assert near.actions.item() == pytest.approx(-0.1, abs=0.01)
    assert far.actions.item() == pytest.approx(0.8, abs=0.01)


def test_gradient_samples_do_not_interact() -> None:
    paths = []
    for samples in (1, 5):
        world = Recorder()
        problem = point()
        object.__setattr__(problem, "rollout", lambda a, world=world: world(a.cumsum(2)))
        planners.make("gradient", tries=1).plan(problem, Budget(samples, 10), seeded())
        paths.append(torch.stack([z[0, 0] for z in world.seen[:10]]))
    torch.testing.assert_close(*paths)


# ---- Noise --------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("steps", [1, 5, 6])
def test_noise_has_unit_variance_and_its_colour(beta: float, steps: int) -> None:
    noise = coloured((2, 4000, steps, 3), beta, torch.zeros(1), seeded())
    assert noise.shape == (2, 4000, steps, 3)
    assert noise.std((0, 1, 3)).sub(1).abs().max() < 0.05
    if steps > 1:
        neighbours = (noise[:, :, 1:] * noise[:, :, :-1]).mean().item()
        ends = (noise[:, :, 0] * noise[:, :, -1]).mean().item()
        assert abs(neighbours) < 0.03 if beta == 0 else neighbours > 0.2
        assert ends < neighbours + 0.03


# ---- Errors name what is wrong ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": torch.tensor([0.0, 1.0])}, "dimension 1 low is 1 and high is 1"),
        ({"low": torch.tensor([0.0, math.nan])}, "low must be finite"),
        ({"high": torch.tensor([math.inf, 1.0])}, "high must be finite"),
        ({"high": torch.ones(3)}, "must share shape"),
        ({"low": torch.zeros(1, 2)}, r"shape \[A\], got \(1, 2\)"),
        ({"low": torch.tensor([0, 0])}, "floating-point"),
        ({"horizon": 0}, "horizon must be a whole number of at least 1, got 0"),
        ({"episodes": 1.5}, "episodes must be a whole number"),
        ({"warm_start": torch.zeros(1, 4, 2)}, r"\(1, 3, 2\), got \(1, 4, 2\)"),
        ({"warm_start": torch.full((1, 3, 2), math.nan)}, "not finite"),
    ],
)
def test_problem_is_checked(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quadratic(torch.zeros(2), **changes)


@each_planner
def test_wrong_shapes_are_named(name: str) -> None:
    one = torch.ones(2)
    good = squared_distance(one)
    with pytest.raises(ValueError, match=r"rollout must return z .* \(1, \d+, 3\)"):
        plan(name, Problem(lambda a: Trajectory(a[:, 0]), good, -one, one, 3))
    with pytest.raises(ValueError, match=r"cost must return \[E, S\]"):
        plan(name, Problem(as_latents, lambda _, a: a.sum(-1), -one, one, 3))
    rule = Rule(lambda a: a, name="lane")
    with pytest.raises(ValueError, match="guardrail 'lane' must return"):
        plan(name, Problem(as_latents, good, -one, one, 3, guardrails=(rule,)))


def test_make_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown planner: 'cma-es'; did you mean 'cmaes'"):
        planners.make("cma-es")
    with pytest.raises(ValueError, match="'elite'; did you mean 'elites'"):
        planners.make("cem", elite=3)
    with pytest.raises(ValueError, match="known are cem, mppi, cmaes, gradient"):
        planners.make("")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cem", {"elites": 1.5}),
        ("cem", {"momentum": 1.5}),
        ("cem", {"sigma": "0.5"}),
        ("mppi", {"temperature": 0}),
        ("mppi", {"sigma_decay": math.nan}),
        ("cmaes", {"sigma": 0}),
        ("gradient", {"learning_rate": -1}),
        ("gradient", {"tries": 0}),
    ],
)
def test_bad_options_are_named(name: str, options: dict) -> None:
    (option,) = options
    with pytest.raises(ValueError, match=option):
        planners.make(name, **options)


@pytest.mark.parametrize(
    "bad", [{"samples": 0}, {"iterations": 0}, {"budget_ms": math.nan}, {"patience": 0}]
)
def test_bad_budgets_are_named(bad: dict) -> None:
    (name,) = bad
    with pytest.raises(ValueError, match=name):
        Budget(**bad)


def test_a_generator_on_another_device_and_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        planners.make("cmaes").plan(quadratic(torch.zeros(2)), Budget(3), seeded())
    everything = Candidates(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2), torch.zeros(1, 2))
    assert everything.best(5).cost.shape == (1, 2)  # asking for more than there are is fine


@pytest.mark.parametrize("name", ["cem", "mppi", "gradient"])
@pytest.mark.parametrize("guarded", [False, True])
def test_iterations_read_nothing_back_from_the_device(
    name: str, guarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device, where reading a value fails."""
    one = torch.ones(2)
    kept = (rails.no_go(rails.Disc((0.5, 0.0), 0.2), lambda trajectory: trajectory.z[..., 0, :]),)
    problem = Problem(
        lambda actions: Trajectory(actions.cumsum(2).unsqueeze(3)),
        lambda trajectory, actions: (trajectory.z[:, :, -1, 0] - 0.3).square().sum(-1),
        -one,
        one,
        4,
        episodes=2,
        guardrails=kept if guarded else (),
        warm_start=torch.zeros(2, 4, 2),
        hold=torch.zeros(2),
        limits=ActionLimits(torch.zeros(2, 2), change=0.5) if guarded else None,
    )
    for tensor in ("low", "high", "warm_start", "hold"):
        object.__setattr__(problem, tensor, getattr(problem, tensor).to("meta"))
    searches: list[Search] = []
    monkeypatch.setattr(Search, "finish", lambda search: searches.append(search))
    planner = planners.make(name)
    planner.plan(problem, Budget(samples=8, iterations=3), seeded())
    assert searches[0].stop_reason == "iterations"
    assert searches[0].finalists is not None and searches[0].finalists.cost.is_meta


# ---------------------------------------------------------------------------------------- choices
@pytest.mark.parametrize("name", ["cem", "mppi", "cmaes"])
def test_choices_are_made_before_the_model_sees_them(name: str) -> None:
    """The best plan is found from nothing, and every number that the model sees is 0 or 1."""
    best = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 0]]).transpose(0, 1)  # [T, two choices of 3]
    target = torch.nn.functional.one_hot(best, 3).flatten(1).float()
    seen = Recorder()
    changes: dict = {"low": torch.zeros(6), "high": torch.ones(6), "choices": (3, 3)}
    problem = replace(quadratic(target, 4, **changes), rollout=seen)
    found = plan(name, problem)
    assert torch.equal(found.actions[0], target)
    for actions in seen.seen:
        assert ((actions == 0) | (actions == 1)).all()
        assert (actions.unflatten(-1, (2, 3)).sum(-1) == 1).all()


@pytest.mark.parametrize("name", ["cem", "cmaes"])
def test_a_bad_guess_of_choices_is_left(name: str) -> None:
    target = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 1, 0]), 3).float()
    guess = torch.nn.functional.one_hot(torch.full((1, 5), 2), 3).float()
    changes: dict = {"low": torch.zeros(3), "high": torch.ones(3), "choices": (3,)}
    found = plan(name, quadratic(target, 5, warm_start=guess, **changes))
    assert torch.equal(found.actions[0], target)


def test_choices_that_do_not_fit_are_refused() -> None:
    changes: dict = {"low": torch.zeros(3), "high": torch.ones(3)}
    with pytest.raises(ValueError, match="must sum to A = 3"):
        quadratic(torch.zeros(3), choices=(2, 2), **changes)
