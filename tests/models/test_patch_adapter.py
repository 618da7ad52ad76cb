"""Learned latents on the principal components of patch tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.patch_adapter import START, PatchAdapter
from worldmodel.models.registry import REPRESENTATIONS

N, C = 16, 24


def adapter(components: int = 2) -> PatchAdapter:
    config = ModelConfig(tokens=2, dim=8, predictor="mlp")
    spec = DataSpec(N, C, (-1.0,), (1.0,), (0.0,), (1.0,))
    return PatchAdapter(config, spec, components=components)


def scenes(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of frames of the same scene, and the directions: tokens change along the first two
    within a scene, and differ much more along the third between scenes."""
    directions = torch.linalg.qr(torch.randn(C, 3, generator=generator))[0].T
    scene = 50 * torch.randn(count, 1, 1, generator=generator) * directions[2]
    positions = 30 * torch.randn(N, C, generator=generator)
    changes = torch.randn(2, count, N, 2, generator=generator) * torch.tensor([3.0, 1.0])
    one, other = (scene + positions + change @ directions[:2] for change in changes)
    return one, other, directions


def fitted(count: int = 500) -> tuple[PatchAdapter, Tensor, Tensor]:
    one, other, directions = scenes(count, torch.Generator().manual_seed(0))
    logs: Any = SimpleNamespace(random_pairs=lambda count: (one, other))
    found = adapter()
    found.fit(logs)
    return found, one, directions


def test_reduced_tokens_keep_what_changes_within_episodes() -> None:
    found, tokens, directions = fitted()
    reduced = found.reduce(tokens)
    assert reduced.shape == (500, N, 2)
    torch.testing.assert_close(reduced.std((0, 1)), torch.ones(2), rtol=0.1, atol=0)
    alignment = found.basis / found.basis.norm(dim=0)
    assert (alignment.T @ directions[:2].T).abs().diagonal().min() > 0.99
    assert (alignment.T @ directions[2]).abs().max() < 0.05
    z = found.encode(tokens).flatten(1)
    apart = (z - z.roll(1, 0)).square().sum(-1).mean()
    torch.testing.assert_close(apart, torch.tensor(START), rtol=1e-3, atol=0)


def test_what_shifts_all_patches_alike_does_not_change_reduced_tokens() -> None:
    found, tokens, directions = fitted()
    elsewhere = tokens + 20 * directions[0] - 5 * directions[1]  # as another ground does
    torch.testing.assert_close(found.reduce(elsewhere), found.reduce(tokens), atol=1e-3, rtol=0)
    stronger = found.mean + 3 * (tokens - found.mean)  # as a brighter light does
    alike = torch.cosine_similarity(found.reduce(stronger), found.reduce(tokens), -2)
    assert alike.min() > 0.999


def test_latents_have_the_shape_of_the_config_and_depend_on_all_patches() -> None:
    found, tokens, _ = fitted(N)
    z = found.encode(tokens.reshape(4, 4, N, C))
    assert z.shape == (4, 4, 2, 8) and z.dtype == torch.float32
    torch.testing.assert_close(z.flatten(0, 1), found.adapt(found.reduce(tokens)))
    moved = tokens.clone()
    for patch in range(N):  # one in each frame
        moved[patch, patch] += found.basis[:, 0] * found.mean.std()
    changed = (found.encode(moved) - found.encode(tokens)).flatten(1).norm(dim=-1)
    assert (changed > 0).all()


def test_it_is_fitted_once_and_registered() -> None:
    assert not adapter().fitted
    assert fitted(12)[0].fitted
    assert REPRESENTATIONS["patch_adapter"] is PatchAdapter and not PatchAdapter.fixed


def test_finer_grids_are_reduced_to_the_same_coarse_one() -> None:
    config = ModelConfig(tokens=1, dim=8, predictor="mlp")
    sizes = set()
    for side in (8, 16):
        spec = DataSpec(side**2, C, (-1.0,), (1.0,), (0.0,), (1.0,))
        finer = PatchAdapter(config, spec)
        assert finer.adapt(torch.randn(3, side**2, C)).shape == (3, 1, 8)
        sizes.add(finer.where[1].in_features)
    assert len(sizes) == 1


def test_what_a_thing_looks_like_is_read_at_places_where_it_never_was() -> None:
    generator = torch.Generator().manual_seed(0)
    side, kinds = 8, torch.randn(2, C, generator=generator)
    torch.manual_seed(0)
    config, spec = (
        ModelConfig(tokens=1, dim=64),
        DataSpec(side**2, C, (-1.0,), (1.0,), (0.0,), (1.0,)),
    )
    found = PatchAdapter(config, spec, components=C)
    kind = torch.arange(2).repeat_interleave(side**2)
    place = torch.arange(side**2).repeat(2)
    tokens = torch.zeros(2 * side**2, side**2, C)
    tokens[torch.arange(len(place)), place] = 3 * kinds[kind]
    known = (place % side + place // side) % 2 == 0  # the white squares of a chessboard

    def right(off: torch.nn.Linear) -> float:
        """Share of things that are recognised at the other places, without one of the paths."""
        weight = off.weight.detach().clone()
        with torch.no_grad():
            off.weight.zero_()
            z = found.adapt(tokens).flatten(1).double()
            off.weight.copy_(weight)
        z = torch.cat([z, torch.ones(len(z), 1)], 1)
        y = 2.0 * kind.double() - 1
        x, ridge = z[known], 1e-2 * torch.eye(z.shape[1])
        weights = torch.linalg.solve(x.T @ x + ridge, x.T @ y[known])
        return float((((z @ weights) > 0) == (y > 0))[~known].double().mean())

    assert right(off=found.where[1]) > 0.95
    assert right(off=found.what[1]) < 0.7  # half is chance
