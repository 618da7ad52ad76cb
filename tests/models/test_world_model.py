"""The world model: rollouts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.world_model import WorldModel, near_distance

SMALL = ModelConfig(tokens=2, dim=8, width=32, depth=1, heads=2, frameskip=5)


@pytest.mark.parametrize("actions_by", ["adaln", "concat"])
def test_a_rollout_is_predictions_chained_on_the_real_history(actions_by: Any) -> None:
    torch.manual_seed(0)
    spec = DataSpec(4, 6, (-1.0, -2.0), (1.0, 2.0), (0.5, 0.0, 0.0), (1.0, 2.0, 3.0))
    model = WorldModel(replace(SMALL, actions=actions_by), spec).eval()
    for p in model.parameters():  # so that every path matters
        torch.nn.init.normal_(p, std=0.2)
    e, s, t, k, a = 2, 3, 4, SMALL.context, 2 * SMALL.frameskip
    z, proprio = torch.randn(e, k, 2, 8), torch.randn(e, k, 3)
    past, actions = torch.randn(e, k - 1, a), torch.randn(e, s, t, a)
    imagined = model.rollout(z, proprio, past, actions)
    assert (model.rollout(z, proprio, past, actions + 0.1).z != imagined.z).all()
    assert imagined.z.shape == (e, s, t, 2, 8) and imagined.proprio.shape == (e, s, t, 3)
    frames, bodies = list(z[1]), list(proprio[1])
    taken = [*past[1], *actions[1, 2]]
    for step in range(t):
        next_z, next_proprio = model.predict(
            torch.stack(frames[-k:])[None],
            torch.stack(bodies[-k:])[None],
            torch.stack(taken[step : step + k])[None],
        )
        frames.append(next_z[0])
        bodies.append(next_proprio[0])
    torch.testing.assert_close(torch.stack(frames[k:]), imagined.z[1, 2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.stack(bodies[k:]), imagined.proprio[1, 2], rtol=1e-4, atol=1e-5
    )


def test_near_is_a_fiftieth_of_the_mean_distance_of_random_frames() -> None:
    model = WorldModel(SMALL, DataSpec(4, 6, (-1.0,), (1.0,), (0.0,), (1.0,)))
    z = 3 * torch.randn(4000, 2, 8, generator=torch.Generator().manual_seed(0))
    assert near_distance(model, z) == pytest.approx(0.02 * 2 * 9, rel=0.02)
