"""Masks and assignments of self-distillation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from worldmodel.training.self_distillation import block_masks, sigreg, sinkhorn, vicreg


def test_masks_have_their_ratios() -> None:
    g = torch.Generator().manual_seed(0)
    masks = [block_masks(40, 8, (0.1, 0.6), 0.75, g) for _ in range(3)]
    hidden = masks[0].sum(1)
    assert int((hidden == 0).sum()) == 10
    assert hidden[hidden > 0].min() >= 6 and hidden.max() <= 39
    assert len({int(m.sum()) for m in masks}) == 1
    assert not torch.equal(masks[0], masks[1])


def test_sinkhorn_balances_prototypes() -> None:
    g = torch.Generator().manual_seed(0)
    scores = torch.rand(512, 16, generator=g) * 0.4
    scores[:, 0] += 0.5  # everybody's favourite
    q = sinkhorn(scores, 0.1, iterations=20)
    torch.testing.assert_close(q.sum(1), torch.ones(512))
    torch.testing.assert_close(q.sum(0), torch.full((16,), 32.0), rtol=0.02, atol=0.0)


def _sigreg(a: Tensor, b: Tensor) -> Tensor:
    return sigreg(a, b, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("loss", [vicreg, _sigreg])
def test_embeddings_are_best_if_they_agree_and_fill_their_space(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    g = torch.Generator().manual_seed(0)
    best = torch.randn(4096, 16, generator=g)
    other = torch.randn(4096, 16, generator=g)
    line = best[:, :1].expand(-1, 16)  # all numbers say the same
    lowest = loss(best, best)
    assert lowest < 0.1
    for a, b in ((best, other), (line, line), (0.01 * best, 0.01 * best)):
        assert loss(a, b) > lowest + 0.2


def test_sigreg_prefers_a_gaussian_to_other_shapes() -> None:
    g = torch.Generator().manual_seed(0)
    gaussian = torch.randn(4096, 2, generator=g)
    corners = torch.randn(4096, 2, generator=g).sign()
    assert _sigreg(gaussian, gaussian) < 0.2 * _sigreg(corners, corners)
