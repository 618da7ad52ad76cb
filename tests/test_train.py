"""Training: it learns, it resumes to the last bit after a kill, and it refuses bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from worldmodel.collect import CollectConfig, collect
from worldmodel.errors import UserError
from worldmodel.predictor import DataSpec, ModelConfig, WorldModel
from worldmodel.train import LossConfig, OptimConfig, TrainConfig, Trainer

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
    predictor = trainer.model.next_z.weight.detach().clone()
    for _ in range(5):
        assert "reconstruct" not in trainer.train_step()
    for model in (trainer.model, trainer.average):
        for name, value in model.projector.state_dict().items():
            assert torch.equal(value, projector[name])
    assert not torch.equal(trainer.model.next_z.weight, predictor)
    assert trainer.episodes.frames[0].shape == (120 * 21, SMALL.tokens, SMALL.dim)


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
    subprocess.run(command("whole"), check=True, env=env, capture_output=True)
    victim = subprocess.Popen(
        command("killed"), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    again = subprocess.run(command("killed"), env=env, capture_output=True, text=True)
    assert again.returncode == 2 and "resume" in again.stderr
    subprocess.run([*command("killed"), "--resume", "true"], check=True, env=env)
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


def test_a_rollout_is_predictions_chained_on_the_real_history() -> None:
    torch.manual_seed(0)
    spec = DataSpec(4, 6, (-1.0, -2.0), (1.0, 2.0), (0.5, 0.0, 0.0), (1.0, 2.0, 3.0))
    model = WorldModel(SMALL, spec).eval()
    for p in model.parameters():  # so that every path matters
        torch.nn.init.normal_(p, std=0.2)
    e, s, t, k, a = 2, 3, 4, SMALL.context, 2 * SMALL.frameskip
    z, proprio = torch.randn(e, k, 2, 8), torch.randn(e, k, 3)
    past, actions = torch.randn(e, k - 1, a), torch.randn(e, s, t, a)
    imagined = model.rollout(z, proprio, past, actions)
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
