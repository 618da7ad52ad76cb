"""The temporal metric learns shortest paths from detours."""

from __future__ import annotations

import copy

import torch

from worldmodel.models.config import ModelConfig
from worldmodel.models.temporal_metric import TemporalMetric, temporal_difference

ROOMS = 12


def walks(clips: int, frames: int) -> torch.Tensor:
    """Random walks ``[B, J]`` in a row of rooms; a step leads to a neighbour or stays."""
    g = torch.Generator().manual_seed(0)
    steps = torch.randint(-1, 2, (clips, frames - 1), generator=g)
    places = [torch.randint(ROOMS, (clips,), generator=g)]
    for step in steps.T:
        places.append((places[-1] + step).clamp(0, ROOMS - 1))
    return torch.stack(places, 1)


def test_distances_are_the_steps_of_the_shortest_path() -> None:
    places = walks(400, 12)
    codes = torch.nn.functional.one_hot(torch.arange(ROOMS), ROOMS).float()[:, None]
    torch.manual_seed(0)
    metric = TemporalMetric(ModelConfig(tokens=1, dim=ROOMS, predictor="mlp", metric=8), width=64)
    slow = copy.deepcopy(metric).requires_grad_(False)
    optimizer = torch.optim.Adam(metric.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(800):
        loss = temporal_difference(metric, slow, codes[places], places, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for old, new in zip(slow.parameters(), metric.parameters(), strict=True):
            old.data.lerp_(new.data, 0.02)
    with torch.no_grad():
        found = metric(codes[0], codes)
    assert found[0] < 0.1
    assert (found[1:] > found[:-1]).all()
    # Stays and detours are recorded as well; the best steps count.
    torch.testing.assert_close(found[1:7], torch.arange(1.0, 7.0), rtol=0.35, atol=0)
