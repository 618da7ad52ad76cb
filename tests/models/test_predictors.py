"""Predictors, by their structure."""

from __future__ import annotations

import pytest
import torch

from worldmodel.errors import UserError
from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.predictors import LocalPredictor
from worldmodel.models.world_model import WorldModel


def local_model(side: int = 8) -> WorldModel:
    torch.manual_seed(0)
    config = ModelConfig(
        side**2,
        3,
        "local",
        width=16,
        depth=1,
        context=2,
        frameskip=5,
        representation="principal_components",
    )
    model = WorldModel(config, DataSpec(side**2, 5, (-1.0,), (1.0,), (0.0,), (1.0,))).eval()
    for p in model.parameters():  # so that every path matters
        torch.nn.init.normal_(p, std=0.2)
    return model


def test_a_local_predictor_depends_on_nearby_patches_only() -> None:
    model = local_model()
    z, proprio, actions = torch.randn(1, 2, 64, 3), torch.randn(1, 2, 1), torch.randn(1, 2, 5)
    before = model.predict(z, proprio, actions)[0]
    z[:, 0, 0] += 1.0  # the patch in the corner, in the older frame
    after, _ = model.predict(z, proprio, actions)
    changed = (after != before).any(-1).view(8, 8)
    near = torch.zeros(8, 8, dtype=torch.bool)
    near[: LocalPredictor.REACH + 1, : LocalPredictor.REACH + 1] = True
    assert torch.equal(changed, near)


def test_a_local_predictor_is_equivariant_to_shifts() -> None:
    model = local_model(12)
    predictor = model.predictor
    assert isinstance(predictor, LocalPredictor)
    predictor.condition[0].weight.data[:, -2:] = 0.0  # actions mean the same everywhere
    z, proprio, actions = torch.zeros(1, 2, 144, 3), torch.randn(1, 2, 1), torch.randn(1, 2, 5)
    z[:, 1, 12 * 4 + 4] = 1.0
    here = model.predict(z, proprio, actions)[0] - z[:, 1]
    moved = z.view(1, 2, 12, 12, 3).roll((1, 2), (2, 3)).view_as(z)
    there = model.predict(moved, proprio, actions)[0] - moved[:, 1]
    expected = here.view(1, 12, 12, 3).roll((1, 2), (1, 2))
    inside = (slice(None), slice(4, 9), slice(4, 9))  # the border is felt
    torch.testing.assert_close(there.view(1, 12, 12, 3)[inside], expected[inside])
    torch.nn.init.normal_(predictor.condition[0].weight)
    change = model.predict(moved, proprio, actions)[0] - moved[:, 1]
    assert not torch.allclose(change[0, 12 * 5 + 6], change[0, 12 * 9 + 9])


def test_a_local_predictor_needs_a_square_of_patches() -> None:
    with pytest.raises(UserError, match="one for each patch, not 6"):
        ModelConfig(6, 3, "local", representation="principal_components")
