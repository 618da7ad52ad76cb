"""The project's own ViT."""

from __future__ import annotations

import torch

from worldmodel.encoders.vit import ViT, ViTConfig, patchify

SMALL = ViTConfig(image_size=28, patch_size=14, dim=32, depth=1, heads=2)


def test_patches_are_in_row_order() -> None:
    x = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    assert torch.equal(patchify(x, 2)[1, 4], x[1, :, 2:4, 2:4].flatten())


def test_hidden_patches_do_not_change_the_tokens() -> None:
    torch.manual_seed(0)
    vit = ViT(SMALL)
    a, b = torch.randn(1, 3, 28, 28), torch.randn(1, 3, 28, 28)
    b[..., :14, :14] = a[..., :14, :14]
    mask = torch.tensor([[False, True, True, True]])
    assert torch.equal(vit(a, mask), vit(b, mask))
    assert not torch.equal(vit(a), vit(b))
