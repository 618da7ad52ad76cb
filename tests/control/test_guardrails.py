"""Guardrails: regions, limits on what is imagined, and limits that no action ever breaks."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import planners
import worldmodel
from envs.chips import GranularChipsEnv
from envs.task import Task, task_of
from planners import ActionLimits, Budget, Problem, Trajectory
from planners.guardrails import (
    Box,
    Disc,
    Polygon,
    Region,
    at_most,
    keep_apart,
    no_go,
    stay_inside,
    swept,
    unlike,
)
from worldmodel import calibrate
from worldmodel.agent import Agent
from worldmodel.control.config import AgentConfig
from worldmodel.control.familiarity import Familiar
from worldmodel.control.guardrails import action_limits, guardrails, parse_rules, permitted
from worldmodel.control.senses import Senses
from worldmodel.data.collection import CollectConfig, collect
from worldmodel.data.dataset import open_dataset
from worldmodel.data.images import load_image
from worldmodel.errors import UserError
from worldmodel.measure.calibration import CalibrateConfig, conformal_margin
from worldmodel.measure.ceiling import run_ceiling
from worldmodel.measure.environments import make_env
from worldmodel.measure.evaluation import EvaluateConfig
from worldmodel.measure.familiar_frames import FamiliarConfig, store_familiar
from worldmodel.measure.guardrail_metrics import (
    margin_coverage,
    prediction_gaps,
    violation_metrics,
)
from worldmodel.measure.linear_probe import save_probe
from worldmodel.measure.outcomes import measure_outcomes
from worldmodel.measure.rollouts import RolloutLog
from worldmodel.measure.tasks import GoalTask, sample_tasks
from worldmodel.models.checkpoint import find_checkpoint, load_checkpoint
from worldmodel.studies import frontier as frontier
from worldmodel.wrappers import GuardrailWrapper

each_planner = pytest.mark.parametrize("name", list(planners.PLANNERS))
SQUARE = ((0.0, 0.0), (2.0, 0.0), (2.0, 1.0), (0.0, 1.0))
ELL = ((0.0, 0.0), (3.0, 0.0), (3.0, 1.0), (1.0, 1.0), (1.0, 3.0), (0.0, 3.0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def where(trajectory: Trajectory) -> torch.Tensor:
    return trajectory.z[..., 0, :2]


def walk(actions: torch.Tensor) -> Trajectory:
    """A point in the plane that starts at (-1, 0) and follows its actions."""
    place = torch.tensor([-1.0, 0.0]) + actions.cumsum(2)
    return Trajectory(place.unsqueeze(-2))


# ---- Regions ------------------------------------------------------------------------------------
@pytest.mark.parametrize("corners", [SQUARE, SQUARE[::-1]])
def test_rectangular_polygons_are_boxes_in_either_orientation(corners: Any) -> None:
    points = 4 * torch.rand(2000, 2, generator=seeded()) - 1
    box, polygon = Box((0.0, 2.0), (0.0, 1.0)), Polygon(corners)
    torch.testing.assert_close(box.distance(points), polygon.distance(points), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("region", "point", "distance"),
    [
        (Box((0, 2), (0, 1)), (1.0, 0.5), -0.5),
        (Box((0, 2), (0, 1)), (5.0, 5.0), 5.0),  # from the corner: 3, 4
        (Box((-math.inf, 0.2), (-math.inf, math.inf)), (-7.0, 3.0), -7.2),
        (Disc((1, 1), 0.5), (1.0, 3.0), 1.5),
        (Disc((1, 1), 0.5), (1.0, 1.0), -0.5),
        (Polygon(ELL), (2.0, 2.0), 1.0),  # in the nook: outside
        (Polygon(ELL), (0.5, 2.0), -0.5),
        (Polygon(ELL), (-1.0, 0.0), 1.0),  # level with an edge and a corner
        (Polygon(ELL), (4.0, 1.0), 1.0),
    ],
)
def test_distances_from_regions(region: Region, point: Any, distance: float) -> None:
    found = region.distance(torch.tensor(point, dtype=torch.float64))
    assert found.item() == pytest.approx(distance, abs=1e-6)


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(0.3, 1)), min_size=3, max_size=9),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_signed_distance_agrees_with_matplotlib_and_is_1_lipschitz(
    spokes: list[tuple[float, float]], seed: int
) -> None:
    from matplotlib.path import Path as Outline

    # Corners around the origin, in the order of their angles: edges cannot cross.
    angles = np.linspace(0, 2 * np.pi, len(spokes), endpoint=False)
    corners = [(r * np.cos(a), r * np.sin(a)) for a, (_, r) in zip(angles, spokes, strict=True)]
    points = 3 * torch.rand(200, 2, generator=seeded(seed), dtype=torch.float64) - 1.5
    distance = Polygon(tuple(corners)).distance(points)
    clear = distance.abs() > 1e-6
    inside = torch.from_numpy(Outline(corners).contains_points(points.numpy()))
    assert torch.equal((distance < 0)[clear], inside[clear])
    step = 0.1 * torch.randn(200, 2, generator=seeded(seed + 1), dtype=torch.float64)
    change = (Polygon(tuple(corners)).distance(points + step) - distance).abs()
    assert (change <= step.norm(dim=1) + 1e-9).all()


@pytest.mark.parametrize("region", [Box((0, 2), (0, 1)), Disc((1, 0), 0.5), Polygon(ELL)])
def test_distances_have_gradients_everywhere(region: Region) -> None:
    points = torch.tensor([[1.0, 0.5], [1.0, 0.0], [0.0, 0.0], [6.0, 4.0]], requires_grad=True)
    region.distance(points).sum().backward()
    assert points.grad is not None and points.grad.isfinite().all()
    assert points.grad[3].norm() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Box((1, 0), (0, 1)), "x from low to high, got 1 to 0"),
        (lambda: Box((0, 1), (0, math.nan)), "y from low to high"),
        (lambda: Disc((0, 0), -1), "radius above 0"),
        (lambda: Disc((0, math.inf), 1), "finite centre"),
        (lambda: Polygon(((0, 0), (1, 1))), "3 or more finite corners"),
        (lambda: at_most(where, math.nan, "m/s"), "'at_most' needs a finite limit"),
        (lambda: no_go(Disc((0, 0), 1), where, margin=-0.1), "margin of at least 0"),
    ],
)
def test_errors_name_invalid_regions_and_limits(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


# ---- Limits on what is imagined -----------------------------------------------------------------
def test_violations_between_two_steps_are_found() -> None:
    """One step from (-1, 0) across a thin wall at x = 0; both ends are outside the wall."""
    wall = Box((-0.001, 0.001), (-1, 1))
    actions = torch.tensor([2.0, 0.0]).view(1, 1, 1, 2)
    start = torch.tensor([[-1.0, 0.0]])
    assert no_go(wall, where, start)(walk(actions), actions).item() > 0
    assert no_go(wall, where)(walk(actions), actions).item() < 0  # it knows the end only


@given(st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_swept_distance_is_a_lower_bound(seed: int) -> None:
    points = torch.randn(2, 5, 3, 2, generator=seeded(seed))
    start = torch.randn(2, 2, generator=seeded(seed + 1))
    before = torch.cat([start[:, None, None].expand(-1, 5, 1, -1), points[:, :, :-1]], 2)
    share = torch.linspace(0, 1, 400)[:, None]
    way = torch.lerp(before.unsqueeze(-2), points.unsqueeze(-2), share)
    for region in (Box((-0.2, 0.1), (-2, 2)), Disc((0, 0), 0.3), Polygon(ELL)):
        true = region.distance(way)
        least, largest = swept(region, points, start)
        assert (least <= true.amin(-1) + 1e-5).all() and (largest >= true.amax(-1) - 1e-5).all()
        slack = (points - before).norm(dim=-1) / 8 / 2
        assert (true.amin(-1) - least <= slack + 0.02).all()  # and not much farther


def test_violations_are_in_the_unit_of_the_limit() -> None:
    actions = torch.zeros(1, 1, 1, 2)
    actions[..., 0] = 1.0  # to (0, 0)
    here = walk(actions)

    def value(limit: planners.Guardrail) -> float:
        return limit(here, actions).item()

    disc, fixed = Disc((0.0, 0.3), 0.2), torch.tensor([0.0, 0.4])
    examples = torch.tensor([[[0.0, 0.1]], [[9.0, 9.0]]])

    def distance(z: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (z - other).square().mean((-2, -1))

    found = [
        value(no_go(disc, where)),
        value(no_go(disc, where, clearance=0.1, margin=0.05)),
        value(stay_inside(disc, where)),
        value(stay_inside(disc, where, clearance=0.1, margin=0.05)),
        value(at_most(where, 0.3, "m")),
        value(keep_apart(where, lambda _: fixed, 0.5)),
        value(unlike(examples, distance, 0.1)),
    ]
    expected = [-0.1, 0.05, 0.1, 0.25, -0.3, 0.1, 0.095]
    assert found == pytest.approx(expected, abs=1e-6)


@each_planner
def test_plans_go_around_a_disc_and_never_average_two_ways(name: str) -> None:
    """The goal is behind a disc. The average of the ways left and right leads through it."""
    one, start = 0.45 * torch.ones(2), torch.tensor([[-1.0, 0.0]])
    disc = Disc((0.0, 0.0), 0.5)

    def cost(trajectory: Trajectory, actions: torch.Tensor) -> torch.Tensor:
        return (where(trajectory)[..., -1, :] - torch.tensor([1.0, 0.0])).square().sum(-1)

    rail = no_go(disc, where, start)
    problem = Problem(walk, cost, -one, one, 6, guardrails=(rail,))
    found = planners.make(name).plan(problem, Budget(64, 40), seeded())
    assert found.feasible.all() and found.violations.max() <= 0
    assert found.cost.item() < 0.25  # half a metre from the goal; in front of the disc: 1.5
    least, _ = swept(disc, where(walk(found.actions[:, None])), start, parts=1000)
    assert least.min() > 0  # all the way


@pytest.mark.slow
@each_planner
def test_with_a_perfect_model_300_episodes_have_no_violation(name: str) -> None:
    """Goals behind two discs and a wall, replanned at every step. The check samples the way between
    two steps far more densely than planners do."""
    episodes, generator, one = 300, seeded(5), 0.3 * torch.ones(2)
    regions = (Disc((0.0, 0.3), 0.3), Disc((0.1, -0.5), 0.25), Box((0.45, 0.5), (-0.3, 2.0)))
    across = 2 * torch.rand(episodes, generator=generator) - 1
    here = torch.stack([torch.full((episodes,), -0.8), across], 1)
    goal = here.new_tensor([0.9, 0.0]) + 0.1 * torch.randn(episodes, 2, generator=generator)
    budgets = {"gradient": Budget(6, 10)}
    depth, stopped, warm_start = [], [], None
    for _ in range(14):
        now = here

        def world(actions: torch.Tensor, now: torch.Tensor = now) -> Trajectory:
            return Trajectory((now[:, None, None] + actions.cumsum(2)).unsqueeze(-2))

        def cost(trajectory: Trajectory, actions: torch.Tensor) -> torch.Tensor:
            return (where(trajectory)[..., -1, :] - goal[:, None]).square().sum(-1)

        rails = tuple(no_go(region, where, now) for region in regions)
        problem = Problem(world, cost, -one, one, 5, episodes, rails, warm_start)
        plan = planners.make(name).plan(problem, budgets.get(name, Budget(32, 5)), generator)
        assert (plan.violations[plan.feasible] <= 0).all()
        step = torch.where(plan.feasible[:, None], plan.actions[:, 0], 0.0)
        way = torch.lerp(here[:, None], (here + step)[:, None], torch.linspace(0, 1, 500)[:, None])
        depth.append(torch.stack([-region.distance(way).amin(1) for region in regions]))
        stopped.append(~plan.feasible)
        here = here + step
        warm_start = torch.cat([plan.actions[:, 1:], torch.zeros(episodes, 1, 2)], 1)
    assert torch.stack(depth).max() <= 1e-6
    assert torch.stack(stopped).float().mean() < 0.02
    reached = (here - goal).norm(dim=1) < 0.15
    assert reached.float().mean() > 0.5  # they do not keep safe by keeping still


# ---- Limits that no action breaks ---------------------------------------------------------------
COSTS = {
    "far": lambda t, a: -1e30 * a.square().sum((-1, -2)),
    "nan": lambda t, a: a.sum((-1, -2)) * math.nan,
    "some nan": lambda t, a: torch.where(a.sum((-1, -2)) > 0, math.nan, a.sum((-1, -2))),
    "infinite": lambda t, a: a.sum((-1, -2)) + math.inf,
    "cliff": lambda t, a: a[..., 0, 0].sign() * 1e20 + a.sum((-1, -2)),
}


@each_planner
@pytest.mark.parametrize("cost", COSTS)
@given(
    norm=st.none() | st.floats(1e-3, 3),
    change=st.none() | st.floats(1e-3, 3),
    sigma=st.sampled_from([0.01, 1.0, 1e6]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=20, deadline=None)
def test_actions_of_model_and_robot_keep_the_limits(
    name: str, cost: str, norm: float | None, change: float | None, sigma: float, seed: int
) -> None:
    """For any cost; 256 to 1,000 sequences of 4 steps of 2 actions in each case."""
    low, high = torch.tensor([-1.0, -2.0] * 2), torch.tensor([2.0, 1.0] * 2)
    before = torch.randn(3, 2, generator=seeded(seed)).clamp(-1, 1)
    before *= min(1.0, (norm or 9) / 1.5)
    limits = ActionLimits(before, norm, change)
    seen: list[torch.Tensor] = []

    def world(actions: torch.Tensor) -> Trajectory:
        seen.append(actions.detach())
        return Trajectory(actions.cumsum(2).unsqueeze(-2))

    wish = 1e3 * torch.randn(3, 4, 4, generator=seeded(seed))
    problem = Problem(world, COSTS[cost], low, high, 4, 3, warm_start=wish, limits=limits)
    found = planners.make(name, sigma=sigma).plan(problem, Budget(16, 4), seeded(seed))
    for actions in (*seen, found.actions[:, None]):
        assert ((actions >= low) & (actions <= high)).all()
        steps = actions.unflatten(-1, (2, 2)).flatten(2, 3)  # [3, S, 8, 2]
        if norm is not None:
            assert steps.norm(dim=-1).max() <= norm
        if change is not None:
            first = before[:, None, None].expand(-1, steps.shape[1], -1, -1)
            moves = torch.cat([first, steps], 2).diff(dim=2)
            assert moves.abs().max() <= change + 1e-6  # of numbers up to 2


def test_actions_within_the_limits_stay_as_they_are() -> None:
    actions = 0.1 * torch.randn(2, 5, 3, 4, generator=seeded())
    limits = ActionLimits(torch.zeros(2, 2), norm=2.0, change=2.0)
    assert torch.equal(limits.project(actions), actions)
    once = ActionLimits(torch.zeros(2, 2), 0.1, 0.05).project(actions)
    again = ActionLimits(torch.zeros(2, 2), 0.1, 0.05).project(once)
    torch.testing.assert_close(again, once, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"norm": 0.0}, "norm must be a number above 0"),
        ({"change": math.nan}, "change must be a number above 0"),
        ({"before": torch.ones(2)}, r"of shape \[E, a\]"),
        ({"before": torch.ones(1, 2), "norm": 0.5}, "1.41421 long, above the norm 0.5"),
        ({"before": torch.ones(2, 2)}, r"must be \[E, a\] for 1 episodes"),
        ({"before": 3 * torch.ones(1, 2)}, "out of bounds"),
    ],
)
def test_errors_name_bad_action_limits(limits: dict[str, Any], said: str) -> None:
    one = torch.ones(2)
    with pytest.raises(ValueError, match=said):
        given_limits = ActionLimits(**{"before": torch.zeros(1, 2), **limits})
        Problem(walk, lambda t, a: a.sum((-1, -2)), -one, one, 3, limits=given_limits)


# ---- As people write them -----------------------------------------------------------------------
def named(*state_names: str) -> Task:
    """A task whose states have these numbers."""
    task = Task()
    task.state_names = state_names
    return task


PROPRIO = ("pusher_x", "pusher_y", "pusher_vx", "pusher_vy")


@pytest.mark.parametrize(
    ("text", "region", "most", "margin"),
    [
        ("no_go:x=0.1:0.3,y=0:0.2", Box((0.1, 0.3), (0, 0.2)), 0, 0),
        ("no_go:y=0:0.2,margin=0.01", Box((-math.inf, math.inf), (0, 0.2)), 0, 0.01),
        ("workspace:x=-inf:0.3", Box((-math.inf, 0.3), (-math.inf, math.inf)), 0, 0),
        ("no_go:disc=0.2:0.3:0.05", Disc((0.2, 0.3), 0.05), 0, 0),
        ("no_go:polygon=0:0:1:0:0:1", Polygon(((0, 0), (1, 0), (0, 1))), 0, 0),
        ("max_speed:0.5,margin=0.1", None, 0.5, 0.1),
        ("max_action:1e-2", None, 0.01, 0),
        ("keep_apart:0.08,of=block,margin=0.1", None, 0.08, 0.1),
        ("unlike:some/photo.png", None, 0.0, 0),
        ("unlike:photo.png,least=0.3", None, 0.3, 0),
        ("familiar:1.5", None, 1.5, 0),
        ("action_points:start=0.03,end=0.08", None, 0, 0),
        ("lose:0.5,of=chips,margin=0.2", None, 0.5, 0.2),
    ],
)
def test_rules_are_parsed(text: str, region: Region | None, most: float, margin: float) -> None:
    (rule,) = parse_rules([text])
    assert (rule.region, rule.most, rule.margin, rule.text) == (region, most, margin, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nogo:x=0:1", "no guardrail is called 'nogo': did you mean 'no_go'?"),
        ("zebra", "there are no_go, workspace"),
        ("max_speed", "has no limit: write max_speed:0.1"),
        ("max_speed:", "'' is not a number"),
        ("max_speed:fast", "'fast' is not a number"),
        ("max_speed:nan", "nan is not a finite number"),
        ("max_speed:-1", "must be above 0"),
        ("max_speed:0.1,margin=0.2", "must be above 0.2"),
        ("max_speed:1,x=0:1", "has no 'x'"),
        ("no_go:", "names no region"),
        ("no_go:x=0.3:0.1", "x from low to high, got 0.3 to 0.1"),
        ("no_go:x=0.1", "names no region"),
        ("no_go:x=0:1,z=0:1", "names no region"),
        ("no_go:disc=0:0", "names no region"),
        ("no_go:disc=0:0:-1", "radius above 0"),
        ("no_go:polygon=0:0:1:1:2", "names no region"),
        ("no_go:polygon=0:0:1:1", "3 or more finite corners"),
        ("no_go:x=0:one", "'one' is not a number"),
        ("no_go:x=0:1,margin=-1", "must be at least 0"),
        ("keep_apart:0.1", "write keep_apart:0.08,of=block"),
        ("keep_apart:-1,of=block", "must be above 0"),
        ("max_speed:0.1,of=block", "write max_speed:0.1"),
        ("unlike:a.png,most=1", "has no 'most': write unlike:photo.png"),
        ("action_points:0.1", "write action_points:start=0,end=0.05"),
        ("action_points:end=near", "'near' is not a number"),
        ("lose:0.5", "write lose:0.5,of=chips"),
    ],
)
def test_errors_explain_bad_rules(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_rules([text])
    with pytest.raises(UserError, match=said):
        EvaluateConfig("worldmodel/PushT-v0", agent=AgentConfig(guardrails=("max_speed:1", text)))


def test_rules_on_latents_and_on_states_agree() -> None:
    """A robot that is at (0, 0), (0.4, 0), (0.4, 0.4), at 4 m/s, beside a block far away."""
    rules = parse_rules(
        [
            "no_go:disc=0.2:0:0.1",
            "workspace:y=-1:0.3",
            "max_speed:1",
            "max_action:2",
            "max_action:3",
        ]
    )
    robot = torch.tensor([[0.0, 0, 0, 0], [0.4, 0, 4, 0], [0.4, 0.4, 0, 4]])
    seen = Trajectory(torch.zeros(1, 1, 2, 1, 1), robot[None, None, 1:])
    now = Trajectory(torch.zeros(1, 1, 1), robot[None, 0])
    limits = guardrails(rules, Senses(PROPRIO), now)
    found = torch.stack([limit(seen, torch.zeros(1, 1, 2, 2))[0, 0] for limit in limits])
    states = torch.cat([robot[:, :2], torch.full((3, 2), 9.0), robot[:, 2:]], 1).numpy()
    names = ("pusher_x", "pusher_y", "block_x", "block_y", "pusher_vx", "pusher_vy")
    true = np.stack([rule.violation(named(*names), states) for rule in rules])
    np.testing.assert_allclose(true[:3], found, atol=1e-6)
    assert (true[3:] < 0).all()
    assert found[0, 0] == pytest.approx(0.1, abs=0.03) and found[0, 1] < 0
    assert found[1].tolist() == pytest.approx([-0.275, 0.1])  # exact on the way to the border
    assert found[2].tolist() == pytest.approx([3, 3])
    many = np.stack([rules[0].violation(named(*names), np.stack([states, states + 1]))])
    np.testing.assert_allclose(many[0, 0], true[0])
    action = action_limits(rules, torch.zeros(1, 2))
    assert action is not None and (action.norm, action.change) == (2, None)  # the tightest
    assert action_limits(rules[:3], torch.zeros(1, 2)) is None
    with pytest.raises(UserError, match="needs x and y; this checkpoint has arm, hand"):
        guardrails(rules, Senses(("arm", "hand")), now)


def test_rules_on_objects_read_latents() -> None:
    """Latents are the block's position in centimetres, with y reversed."""
    (rule,) = parse_rules(["no_go:of=block,disc=0.2:0.1:0.05,margin=0.01"])
    weights = torch.tensor([[0.01, 0.0], [0.0, -0.01], [0.0, 0.5]])
    senses = Senses(PROPRIO, ("block_x", "block_y"), weights)
    z = torch.tensor([[[0.0, 40.0]], [[10.0, 40.0]], [[20.0, 40.0]]])  # (0, 0.1) to (0.2, 0.1)
    now = Trajectory(z[None, 0], torch.zeros(1, 4))
    (limit,) = guardrails([rule], senses, now)
    ahead = Trajectory(z[None, None, 1:], torch.full((1, 1, 2, 4), 9.0))
    found = limit(ahead, torch.zeros(1, 1, 2, 2))[0, 0]
    assert found.tolist() == pytest.approx([-0.04, 0.06], abs=1e-4)
    states = np.array([[9, 9, 0, 0.1], [9, 9, 0.1, 0.1], [9, 9, 0.2, 0.1]])
    true = rule.violation(named("pusher_x", "pusher_y", "block_x", "block_y"), states)
    assert true == pytest.approx([-0.05, 0.05], abs=1e-6)
    (near,) = guardrails(parse_rules(["keep_apart:9,of=block,margin=0.5"]), senses, now)
    apart = np.hypot(9 - np.array([0.1, 0.2]), 9 - 0.1)
    found = near(ahead, torch.zeros(1, 1, 2, 2))[0, 0]
    assert found.tolist() == pytest.approx((9.5 - apart).tolist(), abs=1e-4)
    with pytest.raises(UserError, match="needs zebra_x and zebra_y; this checkpoint has pusher_x"):
        guardrails(parse_rules(["no_go:of=zebra,x=0:1"]), senses, now)


@pytest.mark.slow
def test_unlike_keeps_away_from_a_photo(tmp_path: Path) -> None:
    """The block's pose in the goal image is forbidden, so the goal cannot be reached."""
    goal = Path("examples/goals/pusht.png").resolve()
    agent = worldmodel.load("pusht", guardrails=(f"unlike:{goal},least=0.5",))
    env = make_env("worldmodel/PushT-v0", {})
    task = json.loads(goal.with_suffix(".json").read_text())
    obs, _ = env.reset(options={"state": np.array(task["start_state"])})
    agent.reset(load_image(goal, 112))
    z = agent.senses.photos[str(goal)]
    for _ in range(20):
        obs = env.step(agent.act(obs))[0]
        plan = agent.last_plan
        assert plan is not None and agent.stop_reason is None
        assert (agent.model.distance(plan.trajectory.z[0], z) >= 0.5).all()
    env.close()
    assert agent.distance[0] > 0.5 - 0.1
    with pytest.raises(UserError, match="no image at .*missing.png"):
        worldmodel.load("pusht", guardrails=("unlike:missing.png",))
    rule = parse_rules(["unlike:photo.png"])[0]
    with pytest.raises(UserError, match="states do not decide it"):
        rule.violation(named("x", "y"), np.zeros((2, 2)))


def test_lost_chips_are_counted() -> None:
    """Three chips, of which one falls, then another; and a planner that reads the number left."""
    (rule,) = parse_rules(["lose:0.5,of=chips,margin=0.1"])
    task = GranularChipsEnv(chips=3, rim=False, image_size=16)
    states = np.full((4, 8), 0.2)
    states[2:, 4:6] = states[3, 2:4] = -1
    assert rule.violation(task, states).tolist() == [-0.5, 0.5, 1.5]
    senses = Senses(("blade_x", "blade_y"), ("chips",), torch.tensor([[2.0], [0.0], [1.0]]))
    z = torch.tensor([[[5.0, 0.0]], [[4.8, 7.0]], [[4.0, 7.0]]])  # 11, 10.6 and 9 of them
    (keep,) = guardrails([rule], senses, Trajectory(z[:1], torch.zeros(1, 2)))
    ahead = Trajectory(z[1:].view(1, 1, 2, 1, 2), torch.zeros(1, 1, 2, 2))
    assert keep(ahead, torch.zeros(1, 1, 2, 4)).flatten().tolist() == pytest.approx(
        [0.0, 1.6], abs=1e-5
    )
    with pytest.raises(UserError, match="needs chips; this checkpoint has x, y"):
        guardrails([rule], Senses(("x", "y")), Trajectory(z[:1], torch.zeros(1, 2)))


def test_strokes_start_and_end_inside_the_rim() -> None:
    """The planner aims at a corner. A stroke of no length is allowed anywhere."""
    (rule,) = parse_rules(["action_points:start=0.03,end=0.08"])
    low, high = torch.zeros(4), torch.full((4,), 0.5)
    names = ("start_x", "start_y", "end_x", "end_y")
    senses = Senses(("blade_x", "blade_y"), (), None, action_names=names)
    senses = dataclasses.replace(senses, low=low.tolist(), high=high.tolist())
    now = Trajectory(torch.zeros(1, 1, 2), torch.zeros(1, 2))
    (keep,) = guardrails([rule], senses, now)

    def blade(actions: torch.Tensor) -> Trajectory:
        return Trajectory(actions[..., 2:].unsqueeze(-2), actions[..., 2:])

    def cost(trajectory: Trajectory, actions: torch.Tensor) -> torch.Tensor:
        return where(trajectory).square().sum((-1, -2))

    strokes = [[0.01, 0.2, 0.2, 0.2], [0.2, 0.2, 0.45, 0.2], [0.2, 0.2, 0.3, 0.2], [0.0] * 4]
    actions = torch.tensor(strokes).view(1, 4, 1, 4)
    assert keep(blade(actions), actions).flatten().tolist() == pytest.approx(
        [0.02, 0.03, -0.12, -0.08]
    )
    problem = Problem(blade, cost, low, high, 2, guardrails=(keep,))
    plan = planners.make("cem").plan(problem, Budget(200, 20), seeded())
    ends = plan.actions[0, :, 2:]
    assert plan.feasible.all() and ends.min() >= 0.08 and ends.max() < 0.12
    with pytest.raises(UserError, match="needs actions with end_x and end_y"):
        worldmodel.load("pusht", guardrails=("action_points:end=0.1",))


def test_tasks_across_a_guardrail_can_be_selected() -> None:
    env = make_env("worldmodel/PushT-v0", {})
    world: Any = env.unwrapped
    rules = parse_rules(["no_go:x=0.2:0.3,y=0.2:0.3"])
    allowed = functools.partial(permitted, rules, world, across=True)
    for task in sample_tasks(env, 5, 0, 25, allowed):
        way = np.linspace(task.start_state[:2], task.goal_state[:2], 1000)
        inside = ((way > 0.2) & (way < 0.3)).all(1)
        assert inside.any() and not inside[0] and not inside[-1]
    env.close()


# ---- What the data showed -----------------------------------------------------------------------
@given(st.integers(0, 2**31), st.sampled_from([0.01, 0.1]))
@settings(max_examples=10, deadline=None)
def test_only_frames_like_the_data_are_familiar(seed: int, level: float) -> None:
    """Frames on a ring in eight dimensions, of any scale."""
    generator, scale = seeded(seed), 10.0 ** torch.linspace(-3, 3, 8)
    mix = torch.randn(2, 8, generator=generator)

    def ring(radius: float, count: int = 2000) -> torch.Tensor:
        angle = 2 * math.pi * torch.rand(count, generator=generator)
        place = radius * torch.stack([angle.cos(), angle.sin()], 1)
        return scale * (place @ mix)

    known = Familiar.learn(ring(1), ring(1, 10_000), 1000, 16, level)
    info = SimpleNamespace(familiar=known.arrays())
    known = Familiar.of(info, torch.device("cpu"))  # type: ignore[arg-type]
    share = (known.nearest(ring(1, 10_000)) > 1).float().mean()
    assert share == pytest.approx(level, abs=0.8 * level)
    assert known.nearest(ring(0.5)).min() > 1 and known.nearest(ring(1.5)).min() > 1
    z, proprio = ring(1)[:, :6].unflatten(-1, (2, 3)), ring(1)[:, 6:]
    assert torch.equal(
        known.distance(z, proprio), known.nearest(torch.cat([z.flatten(-2), proprio], -1))
    )


@pytest.mark.slow
def test_plans_keep_out_of_a_cell_without_data(tmp_path: Path) -> None:
    """The way to the goal leads through the cell: without the guardrail the ball goes deeper."""
    data, folder = tmp_path / "data", tmp_path / "maze"
    collect(CollectConfig(env="worldmodel/Maze-v0", episodes=30, steps=60, out=data, workers=1))
    shutil.copytree(find_checkpoint("maze"), folder)
    cell = "no_go:x=0.75:1,y=0.5:0.75"
    with pytest.raises(UserError, match="has no sample of its training data: run"):
        worldmodel.load(folder, guardrails=("familiar:1",))
    command = [sys.executable, "-m", "worldmodel.familiar", "--data", str(data)]
    command += ["--checkpoint", str(folder), "--without", cell]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout
    assert "held-out frames have a median distance of" in said
    (rule,) = parse_rules([cell])
    env = make_env("worldmodel/Maze-v0", {"layout": "U"})
    goal = np.array([0.875, 0.375, 0, 0, 0])  # on the other side of the cell
    depths: dict[tuple[str, ...], list[float]] = {}
    for rules in ((), ("familiar:1",)):
        agent = worldmodel.load(folder, guardrails=rules)
        for x in (0.82, 0.875, 0.93):
            obs, info = env.reset(options={"state": np.array([x, 0.875, 0, 0, 0])})
            agent.reset(env.unwrapped.render_state(goal))  # type: ignore[attr-defined]
            path = [info["state"]]
            for _ in range(20):
                obs, _, _, _, info = env.step(agent.act(obs))
                path.append(info["state"])
                plan = agent.last_plan
                assert plan is not None
                assert not plan.feasible[0] or (plan.violations[0] <= 0).all()
            depth = rule.violation(named("x", "y", "vx", "vy", "layout_seed"), np.stack(path)).max()
            depths.setdefault(rules, []).append(float(depth))
    env.close()
    # The cell is 0.25 m wide: 0.05 is well inside. The rule binds plans; how far the ball still
    # goes in a place without data depends on the machine's rounding.
    without, guarded = depths[()], depths["familiar:1",]
    assert min(without) > 0.05 and np.mean(guarded) < np.mean(without)
    with pytest.raises(UserError, match=f"{data} is of worldmodel/Maze-v0"):
        store_familiar(FamiliarConfig(data=str(data), checkpoint="pusht"))


@pytest.mark.slow
def test_a_probe_is_fitted_and_stored(tmp_path: Path) -> None:
    """Few episodes give the block's position to a few millimetres, less exactly further ahead."""
    data, folder = tmp_path / "data", tmp_path / "pusht"
    collect(CollectConfig(env="worldmodel/PushT-v0", episodes=24, steps=60, out=data, workers=1))
    shutil.copytree(find_checkpoint("pusht"), folder)
    said = save_probe(str(folder), open_dataset(data), "", 0.2, 0)
    info = load_checkpoint(folder)[2]
    assert info.probe["names"][2:4] == ["block_x", "block_y"] and "| block_x | 0.0" in said
    for name in ("block_x", "block_y"):
        mean = info.probe["errors"]["mean"][name]
        assert mean[0] < 0.005 and mean[0] < mean[-1] < 0.03 and len(mean) == 6
    agent = worldmodel.load(folder, samples=8, iterations=1, guardrails=("no_go:of=block,x=0:1",))
    env = make_env("worldmodel/PushT-v0", {})
    obs, info_now = env.reset(seed=0)
    agent.reset(env.unwrapped.render_state(info_now["goal_state"]))  # type: ignore[attr-defined]
    agent.act(obs)
    assert agent.stop_reason is not None  # the block is where it must not be
    env.close()
    short = tmp_path / "short"
    collect(CollectConfig(env="worldmodel/PushT-v0", episodes=24, steps=9, out=short, workers=1))
    with pytest.raises(UserError, match="no episode of .* has 35 actions: record longer ones"):
        save_probe(str(folder), open_dataset(short), "", 0.2, 0)


def test_regions_are_drawn_in_image_coordinates() -> None:
    env = make_env("worldmodel/PushT-v0", {})
    world: Any = env.unwrapped
    for place in ((0.1, 0.1), (0.4, 0.2)):
        state = np.array([*place, 0.3, 0.4, *[0.0] * 6])
        away = np.abs(world.render_state(state).astype(float) - (217, 77, 51)).sum(-1)
        rows, columns = np.nonzero(away < 60)
        (rule,) = parse_rules([f"no_go:disc={place[0]}:{place[1]}:0.015"])
        outline = rule.outline()
        assert outline is not None
        x, y = 112 * world.in_image(outline).T
        assert (
            abs(x.mean() - columns.mean() - 0.5) < 0.5 and abs(y.mean() - rows.mean() - 0.5) < 0.5
        )
        assert x.max() - x.min() == pytest.approx(np.ptp(columns) + 1, abs=2)
    env.close()


@pytest.mark.parametrize(
    ("text", "away"),
    [
        ("no_go:x=0.1:0.3,y=0:0.2,margin=0.01", 0.01),
        ("no_go:disc=0.2:0.3:0.05,margin=0.01", 0.01),
        ("no_go:polygon=0:0:0:0.2:0.2:0,margin=0.01", 0.01),
        ("workspace:polygon=0:0:0.2:0:0:0.2,margin=0.01", -0.01),
        ("workspace:x=0.1:0.3,margin=0.02", -0.02),
    ],
)
def test_margins_are_drawn_at_their_distance(text: str, away: float) -> None:
    (rule,) = parse_rules([text])
    shifted = rule.margin_outline()
    assert shifted is not None and rule.region is not None
    middles = (shifted[::2] + shifted[1::2]) / 2  # of the edges, which meet their corners
    middles = middles[np.abs(middles).max(1) < 999]  # what is endless ends somewhere
    distance = rule.region.distance(torch.from_numpy(middles))
    assert distance.tolist() == pytest.approx([away] * len(middles), abs=2e-4)
    assert parse_rules([text.rpartition(",")[0]])[0].margin_outline() is None


# ---- In the loop --------------------------------------------------------------------------------
def test_actions_are_limited_without_a_plan() -> None:
    """The workspace is forbidden, except for a corner where the robot is not."""
    model, encoder, info = load_checkpoint("pusht")
    env = make_env("worldmodel/PushT-v0", {}, info.image_size)
    for rules, plan_exists in (
        (("max_action:0.01", "max_change:0.006"), True),
        (("max_change:0.002", "workspace:x=0:0.001,y=0:0.001"), False),
    ):
        config = AgentConfig(samples=16, iterations=2, guardrails=rules)
        agent = Agent(model, encoder, info, planners.make("cem"), config)
        (task,) = sample_tasks(env, 1, 0, 25)
        obs, _ = env.reset(options={"state": task.start_state})
        goal = env.unwrapped.render_state(task.goal_state)  # type: ignore[attr-defined]
        agent.reset(goal)
        taken = [np.zeros(2)]
        if not plan_exists:
            agent.reset(goal, last_action=[0.01, -0.005])
            taken = [np.array([0.01, -0.005])]
        for _ in range(7):
            action = agent.act(obs)
            taken.append(action)
            obs = env.step(action)[0]
        moves = np.diff(taken, axis=0)
        assert np.abs(moves).max() <= (0.006 if plan_exists else 0.002) + 1e-8
        if plan_exists:
            assert np.linalg.norm(taken, axis=1).max() <= 0.01 and np.abs(taken).max() > 0.004
            assert agent.stop_reason is None
        else:  # it brakes, as hard as it may, and says so
            assert agent.stop_reason is not None and agent.intervened.all()
            assert np.abs(taken[1:6]).max() > 0 and not np.any(taken[6:])
    env.close()


@pytest.mark.slow
@each_planner
def test_on_the_true_simulator_there_is_no_violation(name: str) -> None:
    """A box across the pusher's straight way; the simulator is the model."""
    env = make_env("worldmodel/PushT-v0", {})
    model, encoder, info = load_checkpoint("pusht")
    rules = ("no_go:x=0.24:0.27,y=0.22:0.29", "max_speed:0.15")
    planner = planners.make("cem" if name == "gradient" else name)  # a simulator has no gradient
    agent = Agent(model, encoder, info, planner, AgentConfig(guardrails=rules))
    state = np.zeros(10)
    state[:4] = (0.15, 0.25, 0.4, 0.08)
    goal = np.array([0.36, 0.25, 0.4, 0.08, *np.zeros(6)])
    task = GoalTask(state, goal, 0)
    (path,) = run_ceiling(agent, planner, planners.Budget(24, 4), env, [task], 40, 0)
    kept = violation_metrics(
        agent.rules, task_of(env), [path], measure_outcomes(env, [path], [task])
    )
    assert kept["violation_per_step"]["rate"] == 0
    assert np.linalg.norm(path[-1][:2] - goal[:2]) < 0.08  # round the box, not before it
    env.close()


# ---- Around other people's policies -------------------------------------------------------------
def test_actions_of_any_policy_in_any_environment_are_limited() -> None:
    env = GuardrailWrapper(
        gym.make("Pendulum-v1"), ["max_change:0.5", "max_action:1.5"], hold=[0.0]
    )
    env.reset(seed=0)
    rng, taken, said = np.random.default_rng(0), [np.zeros(1)], []
    for step in range(60):
        wanted = rng.uniform(-9, 9, 1) if step % 7 else np.array([math.nan])
        info = env.step(wanted.astype(np.float32))[4]["guardrail"]
        taken.append(info["action"])
        said.append((info["intervened"], info["reason"]))
    assert np.abs(taken).max() <= 1.5 and np.abs(np.diff(taken, axis=0)).max() <= 0.5 + 1e-6
    assert np.abs(taken).max() > 1 and sum(intervened for intervened, _ in said) > 40
    assert said[0][1] == "the action is [nan]" and said[1][1] == "a limit on actions"
    env.reset(seed=0)
    info = env.step(np.array([0.2], np.float32))[4]["guardrail"]
    assert not info["intervened"] and info["reason"] is None
    assert info["action"] == pytest.approx(0.2)
    env.close()


@pytest.mark.parametrize("angle", [0.0, 2.0, 4.0])
def test_the_wrapper_keeps_a_bad_policy_out_of_a_region(angle: float) -> None:
    """The policy moves straight into a disc. Without the guardrail it ends inside."""
    centre, start = np.array([0.3, 0.25]), np.zeros(10)
    start[:2] = centre - 0.15 * np.array([math.cos(angle), math.sin(angle)])
    start[2:4] = (0.08, 0.43)
    way = 0.015 * np.array([math.cos(angle), math.sin(angle)])
    depth = []
    for rules in ([], ["no_go:disc=0.3:0.25:0.05,margin=0.005", "max_change:0.01"]):
        env = GuardrailWrapper(make_env("worldmodel/PushT-v0", {}), rules, "pusht")
        env.reset(seed=0, options={"state": start})
        places, reasons = [], []
        for _ in range(25):
            obs, _, _, _, info = env.step(way)
            places.append(obs["proprio"][:2])
            reasons.append(info["guardrail"]["reason"])
        depth.append(0.05 - np.linalg.norm(np.array(places) - centre, axis=1).min())
        env.close()
    assert depth[0] > 0.03 and depth[1] <= 0
    assert reasons[-1] == "no_go:disc=0.3:0.25:0.05,margin=0.005"
    assert depth[1] > -0.08  # it was not kept from moving at all


def test_errors_name_what_the_wrapper_cannot_guard() -> None:
    with pytest.raises(UserError, match="'max_speed:1' is about predictions"):
        GuardrailWrapper(gym.make("Pendulum-v1"), ["max_speed:1"])
    with pytest.raises(UserError, match="no hold action is declared.*pass hold="):
        GuardrailWrapper(gym.make("Pendulum-v1"), ["max_change:1"])
    with pytest.raises(UserError, match="not Discrete"):
        GuardrailWrapper(gym.make("CartPole-v1"), ["max_change:1"])
    with pytest.raises(UserError, match="this checkpoint is for worldmodel/PushT-v0"):
        GuardrailWrapper(make_env("worldmodel/Maze-v0", {}), ["no_go:x=0:1"], "pusht")


# ---- Calibration --------------------------------------------------------------------------------
@pytest.mark.parametrize(("level", "count"), [(0.1, 9), (0.1, 60), (0.3, 20)])
def test_margins_have_their_coverage(level: float, count: int) -> None:
    """Of 4,000 calibrations with scores of a skewed distribution."""
    rng = np.random.default_rng(0)
    missed = [
        rng.exponential() > conformal_margin(rng.exponential(size=count), level)
        for _ in range(4000)
    ]
    expected = 1 - math.ceil((count + 1) * (1 - level)) / (count + 1)
    assert expected <= level
    assert np.mean(missed) == pytest.approx(expected, abs=4 * math.sqrt(level / 4000))


def test_too_few_episodes_for_a_level_are_an_error() -> None:
    assert conformal_margin(np.arange(19.0), 0.05) == 18
    with pytest.raises(UserError, match="18 episodes are too few for the level 0.05: use 19"):
        conformal_margin(np.arange(18.0), 0.05)
    with pytest.raises(UserError, match="level is 1"):
        CalibrateConfig(env="worldmodel/PushT-v0", guardrail=["no_go:x=0:1"], level=1)
    with pytest.raises(UserError, match="9 episodes are too few"):
        CalibrateConfig(env="worldmodel/PushT-v0", guardrail=["no_go:x=0:1"], episodes=9)
    with pytest.raises(UserError, match="'max_change:1' is kept exactly"):
        CalibrateConfig(env="worldmodel/PushT-v0", guardrail=["max_change:1"])
    with pytest.raises(UserError, match="holds exactly: it has no margin to calibrate"):
        parse_rules(["max_change:1,margin=calibrated"])


def test_the_score_of_an_episode_is_its_worst_gap() -> None:
    """Two plans of two model steps of three steps each; the second comes after four steps."""
    (rule,) = parse_rules(["workspace:x=-9:1,margin=0.1"])
    path = np.array([[0.0], [0.2], [0.3], [0.4], [1.2], [0.5], [0.1], [0.0]])
    path = np.concatenate([path, np.zeros((8, 1))], 1)
    true = rule.violation(named("x", "y"), path)
    expected = np.array([[[-0.5], [-0.3]], [[-0.7], [9.0]]]) + 0.1
    planned = {"planned_at": [np.array([0, 4])], "violations": [expected]}
    watch = RolloutLog(stopped=[np.zeros(7, bool)], **planned)
    (score,) = prediction_gaps(rule, 0, named("x", "y"), [path], watch, 3)
    assert score == pytest.approx(max(true[:3].max() + 0.5, true[3] + 0.3, true[4:].max() + 0.7))
    for margin, rate in ((score - 1e-6, 0), (score + 1e-6, 1)):  # imagined with another margin
        tried = dataclasses.replace(rule, margin=margin)
        other = [expected - 0.1 + margin]
        seen = RolloutLog(**{**planned, "violations": other}, stopped=[np.zeros(7, bool)])
        (found,) = margin_coverage([tried], named("x", "y"), [path], seen, 3)
        assert found["rate"] == rate and found["margin"] == margin
    # Without a plan it should have stayed at the margin.
    watch = RolloutLog(stopped=[np.ones(7, bool)], **planned)
    (score,) = prediction_gaps(rule, 0, named("x", "y"), [path], watch, 3)
    assert score == pytest.approx(true.max() + 0.1)


@pytest.mark.slow
def test_a_margin_is_calibrated_stored_and_used_for_its_settings_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pusht"
    shutil.copytree(find_checkpoint("pusht"), folder)
    rule = "no_go:disc=0.25:0.25:0.05"
    given = ["--env", "worldmodel/PushT-v0", "--checkpoint", str(folder), "--guardrail", rule]
    given += [
        "--agent.samples",
        "16",
        "--agent.iterations",
        "1",
        "--level",
        "0.25",
        "--episodes",
        "6",
    ]
    given += ["--budget_steps", "15", "--batch", "6"]
    assert calibrate.main(given) == 0
    assert f"| {rule} | 0.25 | 0.0" in capsys.readouterr().out

    def agent(**settings: Any) -> Any:
        wanted = {"samples": 16, "iterations": 1, "guardrails": (f"{rule},margin=calibrated",)}
        return worldmodel.load(folder, **{**wanted, **settings})

    (found,) = load_checkpoint(folder)[2].calibration.values()
    assert agent().rules[0].margin == found["margin"] and 0 <= found["margin"] < 0.05
    assert len(found["rounds"]) == 2 and found["rounds"][0]["margin"] == 0
    assert agent(execute=5, horizon=5).rules == agent().rules  # the defaults, said aloud
    for other in (
        {"iterations": 2},
        {"execute": 10},
        {"guardrails": ("no_go:disc=0.25:0.25:0.06,margin=calibrated",)},
    ):
        with pytest.raises(UserError, match="was not calibrated for this model, planner"):
            agent(**other)
    with pytest.raises(UserError, match="was not calibrated"):
        worldmodel.load("pusht", samples=16, iterations=1, guardrails=agent().config.guardrails)
    weights = folder / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(UserError, match="was not calibrated"):
        agent()


# ---- Beside penalties ---------------------------------------------------------------------------
def test_penalties_add_to_the_cost_and_multipliers_grow() -> None:
    parts = load_checkpoint("pusht")
    rules = ("workspace:x=9:10",)  # 8.5 metres away
    config = AgentConfig(samples=8, iterations=1, guardrails=rules)
    planner = frontier.SoftPlanner(planners.make("cem"), 2.0, 0.5)
    agent = Agent(*parts, planner, config)
    env = make_env("worldmodel/PushT-v0", {})
    obs, _ = env.reset(seed=0)
    agent.reset(obs["pixels"])
    agent.act(obs)
    env.close()
    assert agent.last_plan is not None and agent.stop_reason is None  # it does not mind
    plan = planners.verify(agent.problem(), agent.last_plan.actions)
    broken = float(plan.violations.sum())
    assert broken > 5 * 8 and not plan.feasible.any()
    assert planner.weights.item() == pytest.approx(2.0 + 0.5 * broken, rel=0.01)
    assert agent.last_plan.cost.item() == pytest.approx(plan.cost.item() + 2 * broken, rel=0.01)
    assert agent.last_plan.feasible.all()


@pytest.mark.slow
def test_the_frontier_is_measured_and_drawn(tmp_path: Path) -> None:
    rule = "no_go:disc=9:9:1"
    config = frontier.FrontierConfig(
        "worldmodel/PushT-v0",
        agent=AgentConfig(samples=8, iterations=1, guardrails=(rule,)),
        weights=(1.0, 2.0),
        episodes=2,
        batch=2,
        budget_steps=6,
        goal_offset=5,
    )
    result = frontier.frontier(config)
    assert list(result["points"]) == [
        *("unconstrained", "penalty 1", "penalty 2", "Lagrangian", "guardrail")
    ]
    for point in result["points"].values():
        assert point["violation_per_episode"]["rate"] == 0 and point["worst_depth"][rule] < -8
    assert frontier.draw(result).startswith(b"\x89PNG")
    assert "| penalty 2 | 0.0 % (0.0 to 65.8) |" in frontier.table(result)
    with pytest.raises(UserError, match="enforced exactly"):
        exact = AgentConfig(guardrails=("max_action:0.01",))
        frontier.FrontierConfig("worldmodel/PushT-v0", agent=exact)
    with pytest.raises(UserError, match="nothing to compare"):
        frontier.FrontierConfig("worldmodel/PushT-v0")
