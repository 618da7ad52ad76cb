"""Pretraining: it resumes to the last bit and rejects bad input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from worldmodel.encoders.augmentation import AugmentConfig, dead_leaves
from worldmodel.encoders.encoder import load_encoder
from worldmodel.errors import UserError
from worldmodel.pretrain import main
from worldmodel.training.pretraining import PretrainConfig, Pretrainer, pretrain


@pytest.fixture
def tiny(tmp_path: Path) -> PretrainConfig:
    np.save(tmp_path / "frames.npy", dead_leaves(12, 64, seed=2))
    return PretrainConfig(
        data=str(tmp_path / "frames.npy"),
        out=str(tmp_path / "run"),
        steps=8,
        batch=4,
        bank=4,
        dim=32,
        depth=1,
        heads=2,
        prototypes=16,
        log_every=4,
        augment=AugmentConfig(global_size=56, local_size=28),
    )


def test_resumed_run_is_bit_identical(
    tiny: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(tiny)
    whole = load_file(tmp_path / "run" / "encoder" / "model.safetensors")
    # Interrupted after four steps: the schedules must be those of the eight.
    halves = dataclasses.replace(tiny, out=str(tmp_path / "halves"), save_every=1)
    original = Pretrainer.loss

    def interrupted(self: Pretrainer, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if step == 4:
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(Pretrainer, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(halves)
    monkeypatch.undo()
    pretrain(dataclasses.replace(halves, resume=True))
    resumed = load_file(tmp_path / "halves" / "encoder" / "model.safetensors")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    states = [
        torch.load(tmp_path / run / "state.pt", weights_only=True) for run in ("run", "halves")
    ]
    assert [s["step"] for s in states] == [8, 8]
    for key, value in states[0]["trained"]["student"].items():
        assert torch.equal(value, states[1]["trained"]["student"][key])
    curves = []
    for run in ("run", "halves"):
        lines = (tmp_path / run / "metrics.jsonl").read_text().splitlines()
        curves.append([(row["step"], row["loss"]) for row in map(json.loads, lines)])
    assert [step for step, _ in curves[0]] == [4, 8] and curves[0] == curves[1]
    assert load_encoder("dino-112", tmp_path / "run" / "encoder").num_tokens == 16


def test_a_run_is_not_overwritten(tiny: PretrainConfig) -> None:
    with pytest.raises(UserError, match="nothing to resume"):
        pretrain(dataclasses.replace(tiny, resume=True, steps=1))
    pretrain(dataclasses.replace(tiny, steps=1))
    with pytest.raises(UserError, match="holds a run"):
        pretrain(tiny)


def test_pretrain_command_line_errors(
    tiny: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(tmp_path / "none.npy"), "--out", str(tmp_path / "o")]) == 2
    assert "none.npy" in capsys.readouterr().err
    np.save(tmp_path / "bad.npy", np.zeros((3, 8, 8, 3)))
    assert main(["--data", str(tmp_path / "bad.npy"), "--out", str(tmp_path / "o")]) == 2
    assert "float64" in capsys.readouterr().err
    assert main(["--data", tiny.data, "--augment.local_crop", "1"]) == 2
    assert "local_crops" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "o")]) == 2
    assert "data" in capsys.readouterr().err
