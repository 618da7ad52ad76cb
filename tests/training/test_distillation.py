"""Distillation: a student learns its teacher's predictions, and keeps its latents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CONFIG, tiny_checkpoint
from tiny_run import small_run

from worldmodel.errors import UserError
from worldmodel.models.checkpoint import load_checkpoint, write_finding
from worldmodel.training.config import LossConfig, OptimConfig
from worldmodel.training.trainer import start


@pytest.mark.slow
def test_a_smaller_predictor_learns_its_teachers_predictions(maze: Path) -> None:
    teacher = tiny_checkpoint(maze / "teacher", "worldmodel/Maze-v0")
    write_finding(teacher, "probe", {"names": ["ball_x"], "weights": torch.zeros(21, 1)})
    write_finding(teacher, "calibration", {"a": {}})
    small = replace(CONFIG, width=16, heads=1, frameskip=0)  # the teacher's is taken
    optim = OptimConfig(lr=5e-3, warmup=10, ema=0.9)
    settings = replace(
        small_run(maze, "pupil", steps=200, optim=optim, loss=LossConfig(rollout=3), held_out=0.2),
        teacher=str(teacher),
        model=small,
        batch=64,
    )
    trainer, loop = start(settings)
    assert trainer.teacher is not None
    assert trainer.config.model.frameskip == CONFIG.frameskip

    def error() -> float:
        """Of predictions under unseen actions, relative to what the teacher predicts to change."""
        batch = trainer.frames.draw(64, 3, np.random.default_rng(1), held_out=True)
        context = (batch.frames.float(), batch.proprio, batch.actions)
        actions = (2 * torch.rand(64, 1, 3, 10, generator=torch.Generator().manual_seed(0)) - 1) / 2
        models = (trainer.teacher.model, trainer.averaged)
        a, b = (model.rollout(*context, actions).z for model in models)
        change = a - context[0][:, None, -1:]
        return float((a - b).square().mean() / change.square().mean())

    loop.update()
    before = error()
    for _ in range(199):
        loop.update()
    assert error() < 0.2 * before
    known = trainer.teacher.model.representation.state_dict()
    for name, value in trainer.averaged.representation.state_dict().items():
        assert torch.equal(value, known[name])
    loop.save()
    _, _, info = load_checkpoint(maze / "pupil" / "checkpoint")
    assert info.probe["names"] == ["ball_x"] and not info.calibration  # margins are the teacher's
    assert info.training["teacher"] == str(teacher) and info.spec == trainer.teacher.model.spec

    with pytest.raises(UserError, match="tokens is 3, but the teacher's is 2"):
        start(replace(settings, model=replace(small, tokens=3)))
    with pytest.raises(UserError, match="encoder is .* but the teacher's is"):
        start(replace(settings, encoder="dino-112"))
    with pytest.raises(UserError, match="no checkpoint 'nobody'"):
        start(replace(settings, teacher="nobody"))
