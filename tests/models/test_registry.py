"""Representations and predictors of other people: registered, trained and loaded by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from worldmodel.data.collection import CollectConfig, collect
from worldmodel.data.logs import Logs
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.decoder import Decoder
from worldmodel.models.predictors import Predictor
from worldmodel.models.registry import PREDICTORS, REPRESENTATIONS
from worldmodel.models.representations import Representation
from worldmodel.training.config import TrainConfig
from worldmodel.training.trainer import start


@REPRESENTATIONS.register("pooled")
class Pooled(Representation):
    """The first channels of the mean token, standardised."""

    fixed = True
    scale: Tensor

    def __init__(self, config: ModelConfig, spec: DataSpec):
        super().__init__(config, spec)
        self.register_buffer("scale", torch.zeros(config.dim))

    @property
    def fitted(self) -> bool:
        return bool(self.scale.any())

    def fit(self, logs: Logs) -> None:
        tokens, pixels = logs.random_frames(50)
        assert pixels.shape[0] == tokens.shape[0] and len(logs.spaced_frames(20).tokens()) >= 20
        self.scale.copy_(1 / tokens.mean(1)[:, : self.config.dim].std(0))

    def encode(self, tokens: Tensor) -> Tensor:
        return (tokens.mean(-2)[..., : self.config.dim] * self.scale).float().unsqueeze(-2)

    def distance(self, z: Tensor, other: Tensor) -> Tensor:
        return (z - other).abs().sum((-2, -1)) ** 2


@PREDICTORS.register("affine")
class Affine(Predictor):
    """An affine map, with the standard deviation of actions as a fitted scale."""

    action_scale: Tensor

    def __init__(self, config: ModelConfig, spec: DataSpec):
        super().__init__(config, spec)
        size = config.tokens * config.dim
        width = config.context * size + self.condition_dim
        self.blocks = nn.Sequential(nn.Linear(width, config.width))
        self.next_z = nn.Linear(config.width, size)
        self.next_proprio = nn.Linear(config.width, self.proprio_dim)
        self.register_buffer("action_scale", torch.tensor(0.0))

    @property
    def fitted(self) -> bool:
        return bool(self.action_scale)

    def fit(self, logs: Logs) -> None:
        self.action_scale.copy_(logs.actions_of(0)[1].std())

    def forward(self, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        x = self.blocks(torch.cat([z.flatten(1), condition / self.action_scale], -1))
        return self.next_z(x).unflatten(-1, z.shape[-2:]), self.next_proprio(x)


@pytest.mark.slow
def test_registered_classes_are_trained_saved_and_loaded(tmp_path: Path) -> None:
    data = tmp_path / "maze"
    collect(CollectConfig(env="worldmodel/Maze-v0", episodes=20, steps=12, out=data, workers=1))
    config = TrainConfig(
        data=str(data),
        encoder="random-112",
        out=str(tmp_path / "run"),
        cache=str(tmp_path / "latents"),
        steps=3,
        batch=8,
        horizon=2,
        held_out=0.2,
        model=ModelConfig(1, 6, "affine", width=16, representation="pooled"),
    )
    _, loop = start(config)
    assert loop.update()["predict"] > 0
    loop.save()
    model, encoder, info = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert (info.model.representation, info.model.predictor) == ("pooled", "affine")
    assert model.representation.fitted and model.predictor.fitted and info.near > 0
    assert info.hold == (0.0, 0.0) and info.action_names == ("vx", "vy")
    z = model.encode(encoder.encode(torch.zeros(3, 112, 112, 3, dtype=torch.uint8)))
    assert z.shape == (3, 1, 6)
    assert model.distance(z, z + 1).tolist() == pytest.approx([36.0] * 3, rel=1e-4)
    assert Decoder(model, 56).paint(z).shape == (3, 56, 56, 3)


def test_unknown_names_are_errors_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="unknown representation 'planar_poze': did you mean"):
        ModelConfig(representation="planar_poze")
    with pytest.raises(UserError, match="unknown predictor 'x': known are .*local, mlp, relative"):
        ModelConfig(predictor="x")
