"""Principal components and patch pictures as latents."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from worldmodel.errors import UserError
from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.patch_pictures import PatchPictures
from worldmodel.models.principal_components import PrincipalComponents


def test_principal_components_keep_variance_and_distances() -> None:
    """Tokens vary along two directions, more along one; their means differ between patches."""
    g = torch.Generator().manual_seed(0)

    def components_of(tokens: int, dim: int) -> PrincipalComponents:
        config = ModelConfig(tokens, dim, "mlp", representation="principal_components")
        return PrincipalComponents(config, DataSpec(9, 12, (-1.0,), (1.0,), (0.0,), (1.0,)))

    axes = torch.linalg.qr(torch.randn(12, 2, generator=g))[0].T
    where = 50 * torch.randn(9, 12, generator=g)
    tokens = (torch.randn(400, 9, 2, generator=g) * torch.tensor([3.0, 1.0])) @ axes + where
    components = components_of(9, 2)
    components.fit_frames(tokens, torch.empty(0))
    z = components.encode(tokens)
    in_tokens, in_latents = (
        (tokens[:200] - tokens[200:]).norm(dim=-1),
        (z[:200] - z[200:]).norm(dim=-1),
    )
    torch.testing.assert_close(
        in_latents / in_latents.mean(), in_tokens / in_tokens.mean(), rtol=1e-3, atol=1e-3
    )
    assert (z - z.mean(0)).std() == pytest.approx(1.0, abs=0.01)
    one = components_of(9, 1)
    one.fit_frames(tokens, torch.empty(0))
    alignment = one.basis[:, 0] @ axes[0] / one.basis.norm()
    assert alignment.abs() > 0.99
    with pytest.raises(UserError, match="needs 9 latent tokens"):
        components_of(8, 2)


def test_patch_pictures_are_read_off_tokens_and_compare_positions() -> None:
    """Images show a bright dot; tokens hide the brightness of each patch in noise."""
    g = torch.Generator().manual_seed(0)
    spec = DataSpec(16, 12, (-1.0,), (1.0,), (0.0,), (1.0,))
    sizes = ModelConfig(16, 4, "mlp", representation="patch_pictures")
    representation = PatchPictures(sizes, spec)

    def dots(where: torch.Tensor) -> torch.Tensor:
        pixels = torch.full((len(where), 32, 32, 3), 30, dtype=torch.uint8)
        for image, (row, column) in zip(pixels, where, strict=True):
            image[row : row + 4, column : column + 4] = 230
        return pixels

    hidden = torch.linalg.qr(torch.randn(12, 12, generator=g))[0]

    def tokens(pixels: torch.Tensor) -> torch.Tensor:
        bright = pixels.float().mean(-1).unflatten(1, (8, 4)).unflatten(3, (8, 4)).mean((2, 4))
        cells = representation.split(bright) / 100
        noise = torch.randn(*cells.shape[:2], 8, generator=g)
        return torch.cat([cells, noise], -1) @ hidden + 7.0

    shown = dots(torch.randint(0, 29, (600, 2), generator=g))
    seen = tokens(shown)
    representation.fit_frames(seen, shown)
    some = torch.randn(3, 8, 8, generator=g)
    assert torch.equal(representation.join(representation.split(some)), some)
    z = representation.encode(seen)
    assert (z - z.mean(0)).std() == pytest.approx(1.0, abs=0.02)
    assert representation.distance(z[:300], z[300:]).mean() == pytest.approx(2.0, rel=0.1)
    line = representation.encode(tokens(dots(torch.tensor([[4, 4 * k] for k in range(8)]))))
    distances = representation.distance(line, line[:1]).sqrt()
    assert (distances.diff() > 0.05).all(), distances  # across patches, too
    with pytest.raises(UserError, match="16 patches of 3 channels"):
        PatchPictures(replace(sizes, dim=3), spec)
