"""The distance in which slow changes count most."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldmodel.models.slow_metric import slow_metric


def walks(scales: list[float], jitter: list[float], clips: int = 500, frames: int = 12) -> Tensor:
    """Random walks ``[B, J, n]`` from random places, each number with its own step and jitter."""
    g = torch.Generator().manual_seed(0)
    shape = (clips, frames, len(scales))
    steps = torch.randn(*shape, generator=g) * torch.tensor(scales)
    start = 10 * torch.randn(clips, 1, len(scales), generator=g) * torch.tensor(scales)
    return start + steps.cumsum(1) + torch.randn(*shape, generator=g) * torch.tensor(jitter)


def squared(matrix: Tensor, *difference: float) -> float:
    return float((matrix @ torch.tensor(difference, dtype=torch.float32)).square().sum())


def test_what_wanders_counts_and_what_jitters_does_not() -> None:
    matrix = slow_metric(walks([1.0, 0.0], [0.0, 1.0]))
    assert squared(matrix, 1, 0) > 5 * squared(matrix, 0, 1)


def test_a_step_of_each_number_counts_alike_whatever_its_size() -> None:
    matrix = slow_metric(walks([3.0, 1.0], [0.0, 0.0]))
    assert squared(matrix, 3, 0) == pytest.approx(squared(matrix, 0, 1), rel=0.25)


def test_what_never_changes_in_a_clip_does_not_count() -> None:
    z = walks([1.0, 0.0], [0.0, 0.0])
    z[:, :, 1] = 5 * torch.randn(len(z), 1, generator=torch.Generator().manual_seed(1))
    matrix = slow_metric(z)
    assert squared(matrix, 0, 1) < 1e-3 * squared(matrix, 1, 0)


def test_frames_of_different_clips_have_a_mean_squared_distance_of_two() -> None:
    z = walks([1.0, 0.3, 0.0], [0.1, 0.2, 1.0])
    seen = z[:, 0] @ slow_metric(z).T
    distances = (seen - seen.roll(1, 0)).square().sum(-1)
    assert float(distances.mean()) == pytest.approx(2, rel=0.25)


def test_latents_that_never_change_have_a_distance() -> None:
    assert slow_metric(torch.ones(4, 5, 3)).isfinite().all()


def test_linear_changes_of_latents_do_not_change_distances() -> None:
    z = walks([1.0, 0.5, 0.2], [0.3, 0.3, 0.3])
    change = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2)))[0]
    one, other = slow_metric(z), slow_metric(z @ change.T)
    d = torch.tensor([0.3, -1.0, 0.7])
    assert squared(one, *d.tolist()) == pytest.approx(squared(other, *(change @ d).tolist()), 1e-3)
