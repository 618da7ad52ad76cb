"""Training: it learns, it resumes to the last bit after a kill, and it refuses bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import started
from safetensors.torch import load_file, save_file
from tiny import CONFIG, tiny_checkpoint

from worldmodel.data.clips import gather
from worldmodel.data.collection import CollectConfig, collect
from worldmodel.encoders.encoder import BUNDLED, load_encoder
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import load_checkpoint, write_finding
from worldmodel.models.config import ModelConfig
from worldmodel.training.trainer import LossConfig, OptimConfig, TrainConfig, Trainer

SMALL = ModelConfig(tokens=2, dim=8, width=32, depth=1, heads=2)


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    out = folder / "maze"
    collect(CollectConfig(env="worldmodel/Maze-v0", episodes=120, steps=20, out=out, workers=1))
    return folder


def config(folder: Path, name: str, **options: object) -> TrainConfig:
    return TrainConfig(
        data=str(folder / "maze"),
        encoder="random-112",
        out=str(folder / name),
        cache=str(folder / "latents"),
        batch=16,
        horizon=2,
        model=SMALL,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.slow
def test_it_learns_more_than_copying_the_last_frame(maze: Path) -> None:
    optim = OptimConfig(lr=2e-3, warmup=10, ema=0.95)
    settings = config(maze, "learn", steps=250, joint=0.5, held_out=0.2, optim=optim)
    trainer = Trainer(settings)
    first = trainer.train_step()
    for _ in range(249):
        last = trainer.train_step()
    assert last["loss"] < 0.8 * first["loss"]
    errors = trainer.validate()
    assert errors["val_error"][0] < errors["val_copy"][0]
    assert errors["val_proprio"][0] < 0.5


def test_latents_are_fixed_after_the_joint_steps(maze: Path) -> None:
    trainer = Trainer(config(maze, "fixed", steps=20, joint=0.25))
    for _ in range(5):
        assert "reconstruct" in trainer.train_step()
    projector = {k: v.clone() for k, v in trainer.average.representation.state_dict().items()}
    predictor = trainer.model.predictor.next_z.weight.detach().clone()
    for _ in range(5):
        assert "reconstruct" not in trainer.train_step()
    for model in (trainer.model, trainer.average):
        for name, value in model.representation.state_dict().items():
            assert torch.equal(value, projector[name])
    assert not torch.equal(trainer.model.predictor.next_z.weight, predictor)
    assert trainer.features[0].shape == (120 * 21, SMALL.tokens, SMALL.dim)


@pytest.mark.slow
def test_a_checkpoint_keeps_the_local_weights_of_its_encoder(maze: Path) -> None:
    exported = maze / "exported"
    shutil.copytree(BUNDLED, exported)
    other = {k: v + 0.01 for k, v in load_file(exported / "model.safetensors").items()}
    save_file(other, exported / "model.safetensors")
    local = {"encoder": "dino-112", "encoder_weights": str(exported)}
    trainer = Trainer(replace(config(maze, "local", steps=2), **local))  # type: ignore[arg-type]
    trainer.train_step()
    trainer.save()
    shutil.rmtree(exported)
    _, encoder, info = load_checkpoint(maze / "local" / "checkpoint")
    assert encoder.hash == info.encoder_hash != load_encoder("dino-112").hash
    with pytest.raises(UserError, match=r"cannot copy .*exported to .*encoder: No such file"):
        trainer.save()


@pytest.mark.slow
def test_only_the_predictor_learns_from_dynamics_data(maze: Path) -> None:
    wild = maze / "wild"
    collect(CollectConfig(env="worldmodel/Maze-v0", episodes=20, steps=15, out=wild, workers=1))
    trainer = Trainer(config(maze, "wild-run", steps=4, joint=0.5, dynamics_data=str(wild)))
    assert set(trainer.train_on.source) == {0}
    for _ in range(3):
        trainer.train_step()
    assert np.bincount(trainer.train_on.source).tolist() == [114, 19]
    assert [len(frames) for frames in trainer.features] == [120 * 21, 20 * 16]
    alone = Trainer(config(maze, "alone", steps=4, joint=0.5))
    assert alone.spec.proprio_mean != trainer.spec.proprio_mean  # statistics are of all frames


@pytest.mark.slow
def test_a_smaller_predictor_learns_to_imagine_what_its_teacher_does(maze: Path) -> None:
    teacher = tiny_checkpoint(maze / "teacher", "worldmodel/Maze-v0")
    write_finding(teacher, "probe", {"names": ["ball_x"], "weights": torch.zeros(21, 1)})
    write_finding(teacher, "calibration", {"a": {}})
    small = replace(CONFIG, width=16, heads=1)
    optim = OptimConfig(lr=5e-3, warmup=10, ema=0.9)
    settings = replace(
        config(maze, "pupil", steps=200, optim=optim, loss=LossConfig(rollout=3), held_out=0.2),
        teacher=str(teacher),
        model=small,
        batch=64,
    )
    trainer = Trainer(settings)
    assert trainer.teacher is not None

    def apart() -> float:
        """Between what the two imagine under actions never logged, in terms of what changes."""
        clips = trainer.sampler.draw(trainer.held_out, 64, 3, np.random.default_rng(1))
        seen = (gather(clips, trainer.features).float(), clips.proprio, clips.actions)
        actions = (2 * torch.rand(64, 1, 3, 10, generator=torch.Generator().manual_seed(0)) - 1) / 2
        a, b = (m.rollout(*seen, actions).z for m in (trainer.teacher, trainer.average))
        moved = a - seen[0][:, None, -1:]
        return float((a - b).square().mean() / moved.square().mean())

    trainer.train_step()
    before = apart()
    for _ in range(199):
        trainer.train_step()
    assert apart() < 0.2 * before
    known = trainer.teacher.representation.state_dict()
    for name, value in trainer.average.representation.state_dict().items():
        assert torch.equal(value, known[name])
    trainer.save()
    _, _, info = load_checkpoint(maze / "pupil" / "checkpoint")
    assert info.probe["names"] == ["ball_x"] and not info.calibration  # margins are the teacher's
    assert info.training["teacher"] == str(teacher) and info.spec == trainer.teacher.spec

    with pytest.raises(UserError, match="tokens is 3, but the teacher's is 2"):
        Trainer(replace(settings, model=replace(small, tokens=3)))
    with pytest.raises(UserError, match="encoder is .* but the teacher's is"):
        Trainer(replace(settings, encoder="dino-112"))
    with pytest.raises(UserError, match="no checkpoint 'nobody'"):
        Trainer(replace(settings, teacher="nobody"))


@pytest.mark.parametrize("name", ["principal_components", "patch_pictures"])
def test_fixed_representations_are_fitted_saved_and_loaded(maze: Path, name: str) -> None:
    settings = config(maze, name, steps=3)
    model = ModelConfig(tokens=64, dim=4, width=32, depth=1, representation=name, predictor="mlp")
    trainer = Trainer(replace(settings, model=model))
    assert "reconstruct" not in trainer.train_step()
    basis = trainer.model.representation.basis.clone()
    trainer.train_step()
    assert basis.std() > 0 and torch.equal(trainer.average.representation.basis, basis)
    trainer.save()
    kept, _, info = load_checkpoint(str(maze / name / "checkpoint"))
    assert 0.01 < info.near < 1  # random frames are about 2 apart
    torch.testing.assert_close(kept.representation.basis, basis, rtol=0.01, atol=1e-3)
    z = kept.encode(torch.randn(2, 64, 192))
    distance = trainer.average.distance(z[0], z[1])
    torch.testing.assert_close(kept.distance(z[0], z[1]), distance, rtol=0.02, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("joint", [0.1, 0.5])
def test_a_killed_run_resumes_to_the_same_curve(maze: Path, tmp_path: Path, joint: float) -> None:
    """Killed after 7 steps: with the latents fixed already, and not yet."""

    def command(name: str) -> list[str]:
        flags = {
            "data": maze / "maze",
            "cache": maze / "latents",
            "out": tmp_path / name,
            "encoder": "random-112",
            "steps": 40,
            "joint": joint,
            "batch": 8,
            "log_every": 1,
            "save_every": 7,
            "validate_every": 20,
            "horizon": 2,
            "model.width": 32,
            "model.depth": 1,
            "model.dim": 8,
        }
        pairs = [part for key, value in flags.items() for part in (f"--{key}", str(value))]
        return [sys.executable, "-m", "worldmodel.train", *pairs]

    def curve(name: str) -> list[tuple[int, float]]:
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return [(row["step"], row["loss"]) for row in rows if "loss" in row]

    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command("whole"), check=True, env=env, capture_output=True, timeout=120)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    deadline = time.monotonic() + 120
    with started(command("killed"), env=env, **quiet):
        while not (tmp_path / "killed" / "state.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    options: dict[str, Any] = {"env": env, "timeout": 120}
    again = subprocess.run(command("killed"), capture_output=True, text=True, **options)
    assert again.returncode == 2 and "resume" in again.stderr
    subprocess.run([*command("killed"), "--resume", "true"], check=True, **options)
    assert len(curve("whole")) == 40
    assert curve("killed") == curve("whole")


def test_bad_input_is_a_clear_error(maze: Path) -> None:
    with pytest.raises(UserError, match="no-such"):
        Trainer(_with_data(maze, "no-such"))
    with pytest.raises(UserError, match="rollout"):
        Trainer(config(maze, "y", loss=LossConfig(rollout=0)))
    with pytest.raises(UserError, match="held_out is 0"):
        Trainer(config(maze, "z", held_out=0.0))
    with pytest.raises(UserError, match="joint is 0"):
        Trainer(config(maze, "w", joint=0.0))
    with pytest.raises(UserError, match="nothing to resume"):
        Trainer(config(maze, "empty")).resume()
    (maze / "torn").mkdir()
    (maze / "torn" / "state.pt").write_bytes(b"PK torn")
    with pytest.raises(UserError, match="cannot resume"):
        Trainer(config(maze, "torn")).resume()


def _with_data(folder: Path, name: str) -> TrainConfig:
    return TrainConfig(data=str(folder / name), encoder="random-112", cache=str(folder / "latents"))
