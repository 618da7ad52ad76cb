"""Checkpoints: what is saved is what is loaded, and damage is named."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CONFIG, tiny_checkpoint

from worldmodel.encoders.encoder import Encoder
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import bundled_for, load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint", "worldmodel/Maze-v0")


def test_a_checkpoint_is_loaded_as_it_was_saved(checkpoint: Path, tmp_path: Path) -> None:
    model, encoder, info = load_checkpoint(checkpoint)
    assert isinstance(encoder, Encoder) and encoder.hash == info.encoder_hash
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for dtype, hold in (("bfloat16", "repeat"), ("float32", (0.5, -0.5))):
        model.predictor.embed.weight += 1 / 300  # more digits than bfloat16 holds
        info = replace(info, training={"steps": 7}, near=0.3, hold=hold)
        save_checkpoint(tmp_path / dtype, model, info, dtype=dtype)  # type: ignore[arg-type]
        again, _, same = load_checkpoint(tmp_path / dtype)
        assert same == info
        exact = (again.predictor.embed.weight == model.predictor.embed.weight).all()
        assert exact == (dtype == "float32")
        torch.testing.assert_close(
            again.predictor.embed.weight, model.predictor.embed.weight, rtol=1e-2, atol=1e-4
        )


def test_saving_again_replaces_the_checkpoint_and_nothing_else(
    checkpoint: Path, tmp_path: Path
) -> None:
    model, _, info = load_checkpoint(checkpoint)
    folder = tmp_path / "run"
    save_checkpoint(folder, model, info)
    (folder / "metrics.jsonl").write_text("{}")
    save_checkpoint(folder, model, replace(info, horizon=9))
    assert sorted(path.name for path in folder.iterdir()) == [
        *("config.json", "metrics.jsonl", "model.safetensors")
    ]
    assert load_checkpoint(folder)[2].horizon == 9
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def damaged(checkpoint: Path, folder: Path, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir()
    content = json.loads((checkpoint / "config.json").read_text())
    for key, value in (config or {}).items():
        content[key] = value
        if value is None:
            del content[key]
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    return folder


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"format_version": 1}, "format_version 1"),
        ({"horizon": None}, "lacks horizon"),
        ({"horizon": "five"}, "horizon is 'five'"),
        ({"horizons": 3}, "unknown horizons"),
        ({"readable": [1.0]}, "readable has 1 number"),
        ({"hold": 3}, "hold is 3, expected"),
        ({"encoder_hash": "0" * 64}, "0000"),
        ({"model": {"tokens": 2}}, "lacks dim"),
        ({"model": asdict(replace(CONFIG, tokens=3))}, "does not fit"),
    ],
)
def test_a_wrong_config_is_named(
    checkpoint: Path, tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_checkpoint(damaged(checkpoint, tmp_path / "bad", config))


def test_damaged_and_missing_files_are_named(checkpoint: Path, tmp_path: Path) -> None:
    folder = damaged(checkpoint, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(folder)
    weights.unlink()
    with pytest.raises(UserError, match="cannot read .*model.safetensors"):
        load_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load_checkpoint(folder)
    with pytest.raises(UserError, match="does not exist"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no config.json"):
        load_checkpoint(tmp_path)


def test_bundled_names() -> None:
    assert bundled_for("envs:worldmodel/PushT-v0") == "pusht"
    assert bundled_for("worldmodel/Maze-v0") == "maze"
    assert bundled_for("worldmodel/GranularChips-v0") == "chips"
    with pytest.raises(UserError, match="--checkpoint"):
        bundled_for("CartPole-v1")
