"""Training of world models: it learns, fixes latents, stores what planning needs."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import SMALL, small_run

from worldmodel.cli import parse_config
from worldmodel.control.inference import Inference
from worldmodel.data.collection import CollectConfig, collect
from worldmodel.data.logs import Logs
from worldmodel.encoders.encoder import load_encoder
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import BUNDLED_FOLDER, load_checkpoint
from worldmodel.models.config import ModelConfig
from worldmodel.training.config import LossConfig, OptimConfig, TrainConfig
from worldmodel.training.pretraining import PretrainConfig
from worldmodel.training.trainer import start

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.slow
def test_predictions_beat_copying_the_last_frame(maze: Path) -> None:
    optim = OptimConfig(lr=2e-3, warmup=10, ema=0.95)
    settings = small_run(maze, "learn", steps=500, joint=0.25, held_out=0.2, optim=optim)
    trainer, loop = start(settings)
    first = loop.update()
    for _ in range(124):
        last = loop.update()
    assert last["contrast"] < 0.9 * first["contrast"]
    assert last["forward"] < first["forward"] and last["inverse"] < first["inverse"]
    assert trainer.validate()[0] == {}
    for _ in range(375):
        loop.update()
    errors, _ = trainer.validate()
    assert errors["val_error"][0] < errors["val_copy"][0]
    assert 0 < errors["val_distance"][0] < errors["val_distance"][-1] < 1
    assert errors["val_proprio"][0] < 0.5


def test_latents_are_fixed_after_the_joint_steps(maze: Path) -> None:
    trainer, loop = start(small_run(maze, "fixed", steps=20, joint=0.25))
    for step in range(5):
        terms = loop.update()
        weights = asdict(LossConfig()) | ({"forward": 0.5, "reconstruct": 1.0} if step < 2 else {})
        others = {"loss", "grad_norm", "lr"}
        loss = sum(weights[name] * float(terms[name]) for name in terms.keys() - others)
        assert float(terms["loss"]) == pytest.approx(loss, rel=1e-4)
    projector = {k: v.clone() for k, v in trainer.averaged.representation.state_dict().items()}
    predictor = trainer.model.predictor.next_z.weight.detach().clone()
    for _ in range(5):
        assert "reconstruct" not in loop.update()
    for model in (trainer.model, trainer.averaged):
        for name, value in model.representation.state_dict().items():
            assert torch.equal(value, projector[name]) or name == "metric"
    assert not torch.equal(trainer.model.predictor.next_z.weight, predictor)
    assert trainer.frames.features.shape == (120 * 21, SMALL.tokens, SMALL.dim)


def test_the_predictor_sees_displaced_latents(maze: Path) -> None:
    found = []
    for displaced in (0.0, 5.0):
        run = small_run(maze, f"displaced-{displaced}", steps=4, joint=0.25, displaced=displaced)
        _, loop = start(run)
        loop.update()
        found.append(loop.update()["predict"])
    assert found[1] > 1.1 * found[0]


@pytest.mark.slow
def test_a_checkpoint_keeps_the_local_weights_of_its_encoder(maze: Path) -> None:
    exported = maze / "exported"
    shutil.copytree(BUNDLED_FOLDER / "ibot-112", exported)
    other = {k: v + 0.01 for k, v in load_file(exported / "model.safetensors").items()}
    save_file(other, exported / "model.safetensors")
    local = {"encoder": "ibot-112", "encoder_weights": str(exported)}
    trainer, loop = start(replace(small_run(maze, "local", steps=2), **local))  # type: ignore[arg-type]
    loop.update()
    loop.save()
    shutil.rmtree(exported)
    _, encoder, info = load_checkpoint(maze / "local" / "checkpoint")
    assert encoder.hash == info.encoder_hash != load_encoder("ibot-112").hash
    with pytest.raises(UserError, match=r"cannot copy .*exported to .*encoder: No such file"):
        loop.save()


@pytest.mark.slow
def test_only_the_predictor_learns_from_dynamics_data(maze: Path) -> None:
    wild = maze / "wild"
    collect(CollectConfig(env="worldmodel/Maze-v0", episodes=20, steps=15, out=wild, workers=1))
    trainer, loop = start(small_run(maze, "wild-run", steps=4, joint=0.5, dynamics_data=str(wild)))
    assert set(trainer.frames.train.source) == {0}
    for _ in range(3):
        loop.update()
    assert np.bincount(trainer.frames.train.source).tolist() == [114, 19]
    assert len(trainer.frames.features) == 120 * 21 + 20 * 16
    rng = np.random.default_rng(0)
    clips = trainer.frames.sampler.draw(trainer.frames.train, 64, 3, rng)
    drawn = trainer.frames.draw(64, 3, np.random.default_rng(0))
    for source, of, drawn_z in zip(clips.source, clips.frames, drawn.frames, strict=True):
        tokens = torch.from_numpy(np.array(trainer.frames.tokens[source][of])).float()
        torch.testing.assert_close(
            drawn_z.float(), trainer.averaged.encode(tokens), rtol=0.1, atol=0.1
        )
    alone, _ = start(small_run(maze, "alone", steps=4, joint=0.5))
    assert alone.spec.proprio_mean != trainer.spec.proprio_mean  # statistics are of all frames


def test_the_distance_is_fitted_once_the_latents_are_fixed_and_used_by_the_agent(
    maze: Path,
) -> None:
    trainer, loop = start(small_run(maze, "metric", steps=4, joint=0.5))
    plain = trainer.model.representation.metric.clone()
    loop.update()
    loop.update()
    torch.testing.assert_close(trainer.model.representation.metric, plain)
    loop.update()
    fitted = trainer.model.representation.metric
    assert not torch.allclose(fitted, plain)
    torch.testing.assert_close(trainer.averaged.representation.metric, fitted)
    z = torch.randn(5, SMALL.tokens, SMALL.dim)
    agents = Inference(trainer.averaged, trainer.encoder, bfloat16=True).model
    exact = trainer.averaged.distance(z[1:], z[0])
    torch.testing.assert_close(agents.distance(z[1:], z[0]), exact, rtol=0.1, atol=0.01)


def test_a_run_ends_after_its_minutes_and_passes_through_both_phases(maze: Path) -> None:
    trainer, loop = start(replace(small_run(maze, "minutes", steps=10**6), minutes=0.1))
    (maze / "minutes").mkdir()
    loop.run()
    assert trainer.frames.fixed and 1 < loop.step < 10**6
    assert loop.minutes >= 0.1


def test_noise_and_hidden_patches_change_what_the_representation_sees(maze: Path) -> None:
    losses = set()
    for number, (noise, masked) in enumerate([(0.0, 0.0), (0.5, 0.0), (0.0, 0.5)]):
        _, loop = start(small_run(maze, f"seen{number}", steps=4, noise=noise, masked=masked))
        losses.add(float(loop.update()["reconstruct"]))
    assert len(losses) == 3


def test_pairs_of_frames_are_of_the_same_episode(maze: Path) -> None:
    trainer, _ = start(small_run(maze, "pairs", steps=2))
    data, episodes = trainer.frames.sampler.datasets[0], trainer.frames.train
    number = np.repeat(np.arange(data.episodes), data.lengths + 1)
    logs = Logs(
        [data],
        [number[:, None, None]],
        episodes,
        [],
        trainer.encoder,
        lambda a: a,
        0,
        1,
        torch.device("cpu"),
    )
    one, other = logs.random_pairs(200)
    assert torch.equal(one, other) and len(one.unique()) > 50


@pytest.mark.parametrize("name", ["principal_components", "patch_pictures"])
def test_fixed_representations_are_fitted_saved_and_loaded(maze: Path, name: str) -> None:
    settings = small_run(maze, name, steps=3)
    model = ModelConfig(tokens=64, dim=4, width=32, depth=1, representation=name, predictor="mlp")
    trainer, loop = start(replace(settings, model=model))
    assert "reconstruct" not in loop.update()
    basis = trainer.model.representation.basis.clone()
    loop.update()
    assert basis.std() > 0 and torch.equal(trainer.averaged.representation.basis, basis)
    loop.save()
    kept, _, info = load_checkpoint(str(maze / name / "checkpoint"))
    assert 0.01 < info.near < 1  # random frames are about 2 apart
    torch.testing.assert_close(kept.representation.basis, basis, rtol=0.01, atol=1e-3)
    z = kept.encode(torch.randn(2, 64, 192))
    distance = trainer.averaged.distance(z[0], z[1])
    torch.testing.assert_close(kept.distance(z[0], z[1]), distance, rtol=0.02, atol=1e-3)


@pytest.mark.slow
def test_hold_is_declared_for_datasets_without_one(maze: Path) -> None:
    path = maze / "maze" / "data" / "metadata.json"
    text = path.read_text()
    declared = json.loads(text)
    assert declared["worldmodel"]["hold"] == [0.0, 0.0]
    declared["worldmodel"]["hold"] = None
    path.write_text(json.dumps(declared))
    try:
        undeclared, _ = start(small_run(maze, "undeclared"))
        repeating, _ = start(small_run(maze, "repeating", hold="repeat"))
    finally:
        path.write_text(text)
    assert undeclared.hold is None and repeating.hold == "repeat"
    assert start(small_run(maze, "known", hold="repeat"))[0].hold == (0.0, 0.0)


def test_bad_input_is_a_clear_error(maze: Path) -> None:
    with pytest.raises(UserError, match="no-such"):
        start(_with_data(maze, "no-such"))
    with pytest.raises(UserError, match="rollout"):
        start(small_run(maze, "y", loss=LossConfig(rollout=0)))
    with pytest.raises(UserError, match="held_out is 0"):
        start(small_run(maze, "z", held_out=0.0))
    with pytest.raises(UserError, match="joint is 0"):
        start(small_run(maze, "w", joint=0.0))
    with pytest.raises(UserError, match="minutes is inf: it must be a number above 0"):
        small_run(maze, "m", minutes=float("inf"))
    with pytest.raises(UserError, match="masked at least 0 and below 1"):
        small_run(maze, "n", masked=1.0)
    with pytest.raises(UserError, match="displaced is -1: it must be at least 0"):
        small_run(maze, "d", displaced=-1)
    with pytest.raises(UserError, match="clip is 3: it must be above loss.rollout, 3"):
        small_run(maze, "c", clip=3)
    with pytest.raises(UserError, match="data is empty"):
        start(replace(small_run(maze, "nothing"), data=""))
    with pytest.raises(UserError, match="frameskip is -1: it must be at least 0"):
        replace(SMALL, frameskip=-1)
    with pytest.raises(UserError, match="batch is 1"):
        replace(small_run(maze, "v"), batch=1)


def _with_data(folder: Path, name: str) -> TrainConfig:
    return TrainConfig(data=str(folder / name), encoder="random-112", cache=str(folder / "latents"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_accepted(path: Path) -> None:
    settings = PretrainConfig if path.stem == "ibot" else TrainConfig
    assert parse_config(settings, ["--config", str(path), "--data", "d"], "train", "")
