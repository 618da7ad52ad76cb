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
from worldmodel.models.checkpoint import load_checkpoint, record
from worldmodel.models.world_model import (
    Components,
    DataSpec,
    Local,
    ModelConfig,
    Picture,
    WorldModel,
)
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
    projector = {k: v.clone() for k, v in trainer.average.projector.state_dict().items()}
    predictor = trainer.model.predictor.next_z.weight.detach().clone()
    for _ in range(5):
        assert "reconstruct" not in trainer.train_step()
    for model in (trainer.model, trainer.average):
        for name, value in model.projector.state_dict().items():
            assert torch.equal(value, projector[name])
    assert not torch.equal(trainer.model.predictor.next_z.weight, predictor)
    assert trainer.features[0].shape == (120 * 21, SMALL.tokens, SMALL.dim)


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
    with pytest.raises(UserError, match=r"cannot keep .*exported in .*encoder: No such file"):
        trainer.save()


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


def test_a_smaller_predictor_learns_to_imagine_what_its_teacher_does(maze: Path) -> None:
    teacher = tiny_checkpoint(maze / "teacher", "worldmodel/Maze-v0")
    record(teacher, probe={"names": ["ball_x"], "weights": [[0.0] * 21]}, calibration={"a": {}})
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
    known = trainer.teacher.projector.state_dict()
    for name, value in trainer.average.projector.state_dict().items():
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


def test_components_keep_what_varies_and_its_distances() -> None:
    """Tokens that vary in two directions, more in one of them, and besides from patch to patch."""
    g = torch.Generator().manual_seed(0)
    spec = DataSpec(9, 12, (-1.0,), (1.0,), (0.0,), (1.0,))
    axes = torch.linalg.qr(torch.randn(12, 2, generator=g))[0].T
    where = 50 * torch.randn(9, 12, generator=g)
    tokens = (torch.randn(400, 9, 2, generator=g) * torch.tensor([3.0, 1.0])) @ axes + where
    components = Components(spec, 9, 2)
    components.fit(tokens, torch.empty(0))
    z = components(tokens)
    apart, seen = (tokens[:200] - tokens[200:]).norm(dim=-1), (z[:200] - z[200:]).norm(dim=-1)
    torch.testing.assert_close(seen / seen.mean(), apart / apart.mean(), rtol=1e-3, atol=1e-3)
    assert (z - z.mean(0)).std() == pytest.approx(1.0, abs=0.01)
    one = Components(spec, 9, 1)
    one.fit(tokens, torch.empty(0))
    alignment = one.basis[:, 0] @ axes[0] / one.basis.norm()
    assert alignment.abs() > 0.99
    with pytest.raises(UserError, match="use tokens 9"):
        Components(spec, 8, 2)


def test_a_picture_is_read_off_tokens_and_tells_how_far_things_are() -> None:
    """Images of a bright dot somewhere, and tokens that hide in noise what each patch shows."""
    g = torch.Generator().manual_seed(0)
    spec = DataSpec(16, 12, (-1.0,), (1.0,), (0.0,), (1.0,))
    picture = Picture(spec, 16, 4)

    def dots(where: torch.Tensor) -> torch.Tensor:
        pixels = torch.full((len(where), 32, 32, 3), 30, dtype=torch.uint8)
        for image, (row, column) in zip(pixels, where, strict=True):
            image[row : row + 4, column : column + 4] = 230
        return pixels

    hidden = torch.linalg.qr(torch.randn(12, 12, generator=g))[0]

    def tokens(pixels: torch.Tensor) -> torch.Tensor:
        bright = pixels.float().mean(-1).unflatten(1, (8, 4)).unflatten(3, (8, 4)).mean((2, 4))
        cells = picture.cut(bright) / 100
        noise = torch.randn(*cells.shape[:2], 8, generator=g)
        return torch.cat([cells, noise], -1) @ hidden + 7.0

    shown = dots(torch.randint(0, 29, (600, 2), generator=g))
    seen = tokens(shown)
    picture.fit(seen, shown)
    some = torch.randn(3, 8, 8, generator=g)
    assert torch.equal(picture.whole(picture.cut(some)), some)
    z = picture(seen)
    assert (z - z.mean(0)).std() == pytest.approx(1.0, abs=0.02)
    assert picture.distance(z[:300], z[300:]).mean() == pytest.approx(2.0, rel=0.1)
    line = picture(tokens(dots(torch.tensor([[4, 4 * k] for k in range(8)]))))
    apart = picture.distance(line, line[:1]).sqrt()
    assert (apart.diff() > 0.05).all(), apart  # across patches, too
    with pytest.raises(UserError, match="16 patches of 3 channels"):
        Picture(spec, 16, 3)


@pytest.mark.parametrize("projector", ["components", "picture"])
def test_components_are_fixed_from_the_beginning_saved_and_loaded(
    maze: Path, projector: Any
) -> None:
    settings = config(maze, projector, steps=3)
    model = ModelConfig(tokens=64, dim=4, width=32, depth=1, projector=projector, predictor="mlp")
    trainer = Trainer(replace(settings, model=model))
    basis = trainer.model.projector.basis.clone()
    assert "reconstruct" not in trainer.train_step() and basis.std() > 0
    trainer.save()
    kept, _, _ = load_checkpoint(str(maze / projector / "checkpoint"))
    torch.testing.assert_close(kept.projector.basis, basis, rtol=0.01, atol=1e-3)
    z = kept.project(torch.randn(2, 64, 192))
    distance = trainer.average.distance(z[0], z[1])
    torch.testing.assert_close(kept.distance(z[0], z[1]), distance, rtol=0.02, atol=1e-3)


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


def local_model(side: int = 8) -> WorldModel:
    torch.manual_seed(0)
    config = ModelConfig(side**2, 3, "local", width=16, depth=1, context=2, projector="components")
    model = WorldModel(config, DataSpec(side**2, 5, (-1.0,), (1.0,), (0.0,), (1.0,))).eval()
    for p in model.parameters():  # so that every path matters
        torch.nn.init.normal_(p, std=0.2)
    return model


def test_a_local_predictor_looks_around_each_patch_and_no_farther() -> None:
    model = local_model()
    z, proprio, actions = torch.randn(1, 2, 64, 3), torch.randn(1, 2, 1), torch.randn(1, 2, 5)
    before = model.predict(z, proprio, actions)[0]
    z[:, 0, 0] += 1.0  # the patch in the corner, in the older frame
    after, _ = model.predict(z, proprio, actions)
    changed = (after != before).any(-1).view(8, 8)
    near = torch.zeros(8, 8, dtype=torch.bool)
    near[: Local.REACH + 1, : Local.REACH + 1] = True
    assert torch.equal(changed, near)


def test_a_local_predictor_knows_everywhere_what_happens_in_one_place() -> None:
    model = local_model(12)
    predictor = model.predictor
    assert isinstance(predictor, Local)
    predictor.told[0].weight.data[:, -2:] = 0.0  # actions mean the same everywhere
    z, proprio, actions = torch.zeros(1, 2, 144, 3), torch.randn(1, 2, 1), torch.randn(1, 2, 5)
    z[:, 1, 12 * 4 + 4] = 1.0
    here = model.predict(z, proprio, actions)[0] - z[:, 1]
    moved = z.view(1, 2, 12, 12, 3).roll((1, 2), (2, 3)).view_as(z)
    there = model.predict(moved, proprio, actions)[0] - moved[:, 1]
    expected = here.view(1, 12, 12, 3).roll((1, 2), (1, 2))
    inside = (slice(None), slice(4, 9), slice(4, 9))  # the border is felt
    torch.testing.assert_close(there.view(1, 12, 12, 3)[inside], expected[inside])
    torch.nn.init.normal_(predictor.told[0].weight)
    apart = model.predict(moved, proprio, actions)[0] - moved[:, 1]
    assert not torch.allclose(apart[0, 12 * 5 + 6], apart[0, 12 * 9 + 9])


def test_a_local_predictor_needs_a_square_of_patches() -> None:
    spec = DataSpec(6, 5, (-1.0,), (1.0,), (0.0,), (1.0,))
    with pytest.raises(UserError, match="6 latent tokens are not a square"):
        WorldModel(ModelConfig(6, 3, "local", projector="components"), spec)


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
