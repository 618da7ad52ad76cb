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


@pytest.mark.parametrize("loss", ["vicreg", "sigreg"])
def test_patches_can_be_compared_without_prototypes(tiny: PretrainConfig, loss: str) -> None:
    weights = {"cls_weight": 0.0, "patch_weight": 0.0, f"{loss}_weight": 1.0}
    pretrain(dataclasses.replace(tiny, steps=40, lr=3e-3, batch=12, **weights))  # type: ignore[arg-type]
    lines = [json.loads(x) for x in (Path(tiny.out) / "metrics.jsonl").read_text().splitlines()]
    assert "cls_loss" not in lines[0]
    assert lines[-1][loss] < lines[0][loss] and lines[-1]["pixel_loss"] < lines[0]["pixel_loss"]


@pytest.mark.slow
def test_rendered_scenes_take_their_share_of_a_batch(tiny: PretrainConfig) -> None:
    config = dataclasses.replace(tiny, batch=8, procedural=0.25, scenes=0.5, scene_bank=8)
    pretrainer = Pretrainer(config)
    recorded, leaves, scenes = pretrainer.images
    assert (len(recorded), len(leaves), len(scenes)) == (12, 4, 8)
    batch = pretrainer._draw(torch.Generator().manual_seed(0))
    for image, source in zip(batch, [recorded] * 2 + [leaves] * 2 + [scenes] * 4, strict=True):
        assert (image == source).flatten(1).all(1).any()


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
    assert main(["--data", tiny.data, "--procedural", "0.5", "--scenes", "0.5"]) == 2
    assert "their sum must be below 1" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "o")]) == 2
    assert "data" in capsys.readouterr().err
