"""Masks and assignments of self-distillation."""

from __future__ import annotations

import torch

from worldmodel.training.self_distillation import block_masks, sinkhorn


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
