"""Loss terms that make latents informative."""

from __future__ import annotations

import math

import pytest
import torch

from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.patch_adapter import PatchAdapter
from worldmodel.models.world_model import WorldModel
from worldmodel.training.losses import (
    displace,
    distort,
    log_error,
    prediction_terms,
    temporal_contrast,
)


def walk(clips: int, frames: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Slow random walks on a line ``[B, J]``, and a number for each frame."""
    g = torch.Generator().manual_seed(seed)
    start = 20 * torch.rand(clips, 1, generator=g)
    steps = 0.3 * torch.randn(clips, frames, generator=g)
    return start + steps.cumsum(1), torch.arange(clips * frames).reshape(clips, frames)


def contrast(z: torch.Tensor, index: torch.Tensor, heavy_tail: bool = True) -> float:
    return float(temporal_contrast(z, index, torch.Generator().manual_seed(0), heavy_tail))


@pytest.mark.parametrize("heavy_tail", [True, False])
def test_latents_that_tell_frames_apart_by_time_are_preferred(heavy_tail: bool) -> None:
    x, index = walk(8, 6)
    by_time = torch.stack([x, torch.zeros_like(x)], -1)[:, :, None]
    constant = torch.zeros(8, 6, 1, 2)
    shuffled = by_time.flatten(0, 1)[torch.randperm(48)].unflatten(0, (8, 6))
    good, flat, bad = (contrast(z, index, heavy_tail) for z in (by_time, constant, shuffled))
    assert good < flat < bad
    assert math.isclose(flat, math.log(47), rel_tol=1e-5)


def test_repeated_frames_are_no_negatives() -> None:
    x, index = walk(8, 6)
    z = torch.stack([x, torch.zeros_like(x)], -1)[:, :, None]
    z[:, 4:], index[:, 4:] = z[:, 3:4], index[:, 3:4]  # episodes that end early
    z[:] = 0  # all candidates are equally likely: 45 for a repeated frame, 47 for any other
    assert math.log(45) < contrast(z, index) < math.log(47) - 1e-3


def test_distances_grow_with_time_after_training() -> None:
    x, index = walk(32, 12)
    features = torch.stack([x.sin(), x.cos(), (x / 7).sin(), (x / 7).cos()], -1)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(150):
        z = net(features)[:, :, None]
        loss = temporal_contrast(z, index, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    other, _ = walk(32, 12, seed=1)
    features = torch.stack([other.sin(), other.cos(), (other / 7).sin(), (other / 7).cos()], -1)
    z = net(features).detach()
    apart = [(z[:, gap:] - z[:, : 12 - gap]).square().sum(-1).mean() for gap in (1, 3, 6, 11)]
    assert apart == sorted(apart)


def test_distortion_hides_patches_and_has_one_noise_level() -> None:
    clean = torch.full((8, 5, 64, 32), 3.0)
    distorted = distort(clean, 0.2, 0.25, torch.Generator().manual_seed(0))
    hidden = (distorted == 0).all(-1)
    assert float(hidden.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert hidden.float().mean((0, 1)).std() > 0  # other patches in each frame
    noise = [clip[~here].sub(3).std() for clip, here in zip(distorted, hidden, strict=True)]
    torch.testing.assert_close(torch.stack(noise), torch.full((8,), 0.2), rtol=0.05, atol=0)
    again = distort(clean, 0.2, 0.25, torch.Generator().manual_seed(0))
    assert torch.equal(again, distorted)
    torch.testing.assert_close(distort(clean, 0.0, 0.0, torch.Generator()), clean)


def test_numbers_that_cannot_be_read_do_not_drown_those_that_can() -> None:
    target = torch.zeros(64, 2)
    errors = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    coarse = errors * torch.tensor([0.1, 1.0])
    finer_first, finer_second = coarse * torch.tensor([0.5, 1.0]), coarse * torch.tensor([1.0, 0.5])
    # Half the error of either number gains the same, though their sizes differ.
    gains = [log_error(coarse, target) - log_error(x, target) for x in (finer_first, finer_second)]
    torch.testing.assert_close(gains[0], gains[1], rtol=0.01, atol=0)
    assert float(gains[0]) == pytest.approx(math.log(2) / 2, rel=0.01)


def test_errors_that_the_distance_ignores_are_in_the_plain_error_only() -> None:
    spec = DataSpec(16, 6, (-1.0,), (1.0,), (0.0,), (1.0,))
    model = WorldModel(ModelConfig(tokens=1, dim=4, width=8, context=1, frameskip=1), spec)
    representation = model.representation
    assert isinstance(representation, PatchAdapter)
    representation.metric.copy_(torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0])))
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(32, 1, 1, 4, generator=generator).repeat(1, 3, 1, 1)
    still, actions = torch.zeros(32, 3, 1), torch.zeros(32, 2, 1)
    ignored, counted = z.clone(), z.clone()
    ignored[:, 1:, :, 3] += 1.0  # an untrained predictor predicts no change
    counted[:, 1:, :, 0] += 1.0
    unseen, seen = (
        prediction_terms(model, clips, still, actions, 2) for clips in (ignored, counted)
    )
    assert unseen["distance"] < 1e-6 < 0.1 < unseen["predict"]
    assert seen["distance"] > 0.1


def test_latents_are_displaced_along_steps_of_the_batch() -> None:
    along = torch.tensor([3.0, 4.0]) / 5  # all clips move along this line
    where = torch.randn(64, 5, 1, generator=torch.Generator().manual_seed(0))
    z = (where * along).unsqueeze(2)
    moved = displace(z, 0.5, torch.Generator().manual_seed(1))
    error = (moved - z).squeeze(2)
    across = error @ torch.tensor([-along[1], along[0]])
    assert across.abs().max() < 1e-5 and error.norm(dim=-1).mean() > 0.05
    largest = (z[:, 1:] - z[:, :-1]).norm(dim=-1).max()
    assert error.norm(dim=-1).max() <= 0.5 * largest
    torch.testing.assert_close(displace(z, 0.0, torch.Generator()), z)
