"""The training loop: averaging, resuming to the last bit after a kill, unusable states."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import started
from tiny_run import small_run
from torch import nn

from worldmodel.errors import UserError
from worldmodel.training.loop import moving_average
from worldmodel.training.trainer import start


def test_a_moving_average_includes_the_initial_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = moving_average(model, lambda count: min(0.5, count / (count + 9)))
    nn.init.constant_(model.weight, 2.0)
    average.update_parameters(model)
    assert float(average.module.weight) == pytest.approx(0.1 * 1.0 + 0.9 * 2.0)
    nn.init.constant_(model.weight, 0.0)
    for _ in range(20):
        average.update_parameters(model)
    before = float(average.module.weight)
    average.update_parameters(model)
    assert float(average.module.weight) == pytest.approx(0.5 * before)
    assert not average.module.weight.requires_grad and model.weight.requires_grad


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_stops_the_run(maze: Path) -> None:
    trainer, loop = start(small_run(maze, "nan", steps=5))
    loop.update()
    with torch.no_grad():
        trainer.model.proprio_head[0].weight.fill_(float("nan"))
    with pytest.raises(UserError, match="gradient is nan at step 1: lower lr"):
        loop.update()


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


@pytest.mark.slow
def test_unusable_states_are_named(maze: Path) -> None:
    _, loop = start(small_run(maze, "empty"))
    with pytest.raises(UserError, match="nothing to resume"):
        loop.resume()
    (maze / "empty").mkdir()
    (maze / "empty" / "state.pt").write_bytes(b"PK torn")
    with pytest.raises(UserError, match="cannot resume"):
        loop.resume()
