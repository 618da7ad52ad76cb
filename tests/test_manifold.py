"""Coordinates along manifolds, on manifolds that are known."""

import numpy as np
import pytest
import torch

from worldmodel.errors import UserError
from worldmodel.manifold import (
    geodesic_coordinates,
    left_behind,
    neighbour_graph,
    smoothed,
    unexplained,
    with_chains,
)


def bumps(x, centres, width):
    """What a row of sensors feels of something at `x`: nothing of how far, once it is far."""
    return torch.exp(-((x[:, None] - centres) ** 2) / (2 * width**2))


def explained(coordinates, truth):
    """R^2 of `truth` as a linear function of `coordinates`."""
    known = np.isfinite(coordinates).all(1)
    x = np.c_[coordinates[known], np.ones(known.sum())]
    y = truth[known]
    miss = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return 1 - miss.var(0) / y.var(0)


@pytest.fixture
def line():
    x = torch.rand(3000, generator=torch.Generator().manual_seed(0))
    return x, bumps(x, torch.linspace(-0.05, 1.05, 60), 0.02)


def test_place_is_recovered_where_distances_saturate(line):
    x, felt = line
    coordinates = geodesic_coordinates(neighbour_graph(felt, shared=4), 2)
    assert explained(coordinates[:, :1], x.numpy()[:, None]) > 0.99
    linear = torch.pca_lowrank(felt, 1)[0].numpy()
    assert explained(linear, x.numpy()[:, None]) < 0.7


def test_an_angle_becomes_a_circle():
    angle = torch.rand(3000, generator=torch.Generator().manual_seed(0)) * 2 * torch.pi
    around = torch.linspace(0, 2 * torch.pi, 41)[:-1]
    away = torch.remainder(angle[:, None] - around + torch.pi, 2 * torch.pi) - torch.pi
    graph = neighbour_graph(torch.exp(-(away**2) / (2 * 0.15**2)), 30, shared=4)
    truth = torch.stack([angle.sin(), angle.cos()], 1).numpy()
    assert (explained(smoothed(geodesic_coordinates(graph, 2), graph), truth) > 0.98).all()


@pytest.mark.parametrize("shared", [0, 2, 5])
def test_neighbours_are_mutual_and_share_others(shared):
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    apart = torch.cdist(points, points).fill_diagonal_(torch.inf).numpy()
    near = [set(row) for row in np.argsort(apart)[:, :8]]
    graph = neighbour_graph(points, 8, shared).toarray()
    for i in range(200):
        for j in range(200):
            joined = j in near[i] and i in near[j] and len(near[i] & near[j]) >= shared
            assert graph[i, j] == pytest.approx(apart[i, j] if joined else 0, abs=1e-4)


def test_graphs_are_symmetric_and_chains_connect(line):
    x, felt = line
    order = torch.argsort(x)
    felt = felt[torch.cat([order[:1000], order[2000:]])]
    graph = neighbour_graph(felt, shared=4)
    assert abs(graph - graph.T).max() == 0
    assert np.isnan(geodesic_coordinates(graph, 1)).any()  # a gap nobody bridges
    joined = with_chains(graph, felt, np.ones(len(felt) - 1, bool))
    assert np.isfinite(geodesic_coordinates(joined, 1)).all()


def test_what_is_known_is_taken_away():
    generator = torch.Generator().manual_seed(0)
    known, hidden = torch.rand(4000, 2, generator=generator).T[:, :, None]
    centres = torch.linspace(0, 1, 20)
    of_known, of_hidden = (bumps(v[:, 0], centres, 0.1) for v in (known, hidden))
    left = unexplained(torch.cat([of_known, of_hidden], 1), known, steps=600)
    share = left.var(0)
    assert share[:20].sum() < 0.1 * share[20:].sum()


def test_what_the_robot_moves_is_told_from_the_robot():
    """On 60 % of the steps it pushes a thing along, which a plain regression takes for its own."""
    generator = torch.Generator().manual_seed(0)
    moves = 0.1 * torch.randn(4000, 2, generator=generator)
    pushes = torch.rand(4000, 1, generator=generator) < 0.6
    share = pushes * torch.rand(4000, 1, generator=generator)  # no two pushes are alike
    robot, thing = moves.cumsum(0), (share * moves).cumsum(0)
    mixing = torch.randn(4, 12, generator=generator)
    latents = torch.cat([robot, thing], 1) @ mixing
    latents += 0.005 * torch.randn(latents.shape, generator=generator)
    left = left_behind(latents, robot, torch.ones(3999, dtype=torch.bool))
    known = torch.cat([robot, thing], 1)
    weights = torch.linalg.lstsq(known - known.mean(0), left).solution
    assert weights[:2].norm() < 0.02 * weights[2:].norm()
    naive = torch.linalg.lstsq(moves[1:], latents[1:] - latents[:-1]).solution
    weights = torch.linalg.lstsq(known - known.mean(0), latents - robot @ naive).solution
    assert weights[:2].norm() > 0.2 * weights[2:].norm()


def test_too_few_frames_are_refused():
    with pytest.raises(UserError, match="5 frames"):
        neighbour_graph(torch.rand(5, 3))
