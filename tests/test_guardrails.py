"""Guardrails: regions, limits on what is imagined, and limits that no action ever breaks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import planners
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

each_planner = pytest.mark.parametrize("name", list(planners.PLANNERS))
SQUARE = ((0.0, 0.0), (2.0, 0.0), (2.0, 1.0), (0.0, 1.0))
ELL = ((0.0, 0.0), (3.0, 0.0), (3.0, 1.0), (1.0, 1.0), (1.0, 3.0), (0.0, 3.0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def where(trajectory: Trajectory) -> torch.Tensor:
    return trajectory.z[..., 0, :2]


def walk(actions: torch.Tensor) -> Trajectory:
    """A point in the plane that goes where it is told, from (-1, 0)."""
    place = torch.tensor([-1.0, 0.0]) + actions.cumsum(2)
    return Trajectory(place.unsqueeze(-2))


# ---- Regions ------------------------------------------------------------------------------------
@pytest.mark.parametrize("corners", [SQUARE, SQUARE[::-1]])
def test_a_rectangle_is_a_box_whichever_way_its_corners_go(corners: Any) -> None:
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
def test_signed_distance_agrees_with_matplotlib_and_changes_no_faster_than_places(
    spokes: list[tuple[float, float]], seed: int
) -> None:
    from matplotlib.path import Path

    # Corners around the origin, in the order of their angles: edges cannot cross.
    angles = np.linspace(0, 2 * np.pi, len(spokes), endpoint=False)
    corners = [(r * np.cos(a), r * np.sin(a)) for a, (_, r) in zip(angles, spokes, strict=True)]
    points = 3 * torch.rand(200, 2, generator=seeded(seed), dtype=torch.float64) - 1.5
    distance = Polygon(tuple(corners)).distance(points)
    clear = distance.abs() > 1e-6
    inside = torch.from_numpy(Path(corners).contains_points(points.numpy()))
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
def test_what_is_no_region_and_no_limit_is_named(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


# ---- Limits on what is imagined -----------------------------------------------------------------
def test_nothing_is_jumped_over() -> None:
    """From (-1, 0) over a thin wall at x = 0, in one step: both ends are clear of it."""
    wall = Box((-0.001, 0.001), (-1, 1))
    actions = torch.tensor([2.0, 0.0]).view(1, 1, 1, 2)
    start = torch.tensor([[-1.0, 0.0]])
    assert no_go(wall, where, start)(walk(actions), actions).item() > 0
    assert no_go(wall, where)(walk(actions), actions).item() < 0  # it knows the end only


@given(st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_ways_are_never_nearer_than_said(seed: int) -> None:
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


def test_limits_say_by_how_much_in_their_unit() -> None:
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
def test_the_way_round_is_found_and_never_the_middle_of_two_ways(name: str) -> None:
    """The goal is behind a disc. Left and right are good; their average is straight through it."""
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
def test_no_action_that_a_model_or_a_robot_sees_breaks_a_limit(
    name: str, cost: str, norm: float | None, change: float | None, sigma: float, seed: int
) -> None:
    """Whatever the cost says; 256 to 1,000 sequences of 4 steps of 2 actions in each case."""
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


def test_actions_within_the_limits_are_left_alone() -> None:
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
def test_bad_action_limits_are_named(limits: dict[str, Any], said: str) -> None:
    one = torch.ones(2)
    with pytest.raises(ValueError, match=said):
        given_limits = ActionLimits(**{"before": torch.zeros(1, 2), **limits})
        Problem(walk, lambda t, a: a.sum((-1, -2)), -one, one, 3, limits=given_limits)
