"""Findings about checkpoints: one file each, and never in the package."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_checkpoint

from worldmodel.errors import UserError
from worldmodel.models.checkpoint import (
    BUNDLED_FOLDER,
    load_checkpoint,
    load_info,
    record_evaluation,
    save_checkpoint,
    write_finding,
)
from worldmodel.models.decoder import Decoder, latents_hash, load_decoder, save_decoder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's data folder."""
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "checkpoints"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["chips", str(BUNDLED_FOLDER / "chips")])
def test_findings_about_a_bundled_checkpoint_are_written_to_the_users_folder(
    home: Path, name: str
) -> None:
    before = contents(BUNDLED_FOLDER)
    shipped = list(load_info(name).evaluation)
    assert shipped and not load_info(name).probe
    path = write_finding(name, "probe", {"names": ["x"], "weights": torch.ones(3, 1)})
    assert path == home / "chips" / "probe.safetensors" and path.exists()
    assert record_evaluation(name, "mine", {"success": 1.0}) == home / "chips" / "evaluation.json"
    model, _, info = load_checkpoint(name)
    decoder = Decoder(model, 112)
    key = latents_hash(model, info.encoder_hash)
    assert save_decoder(name, decoder, key, {}).parent == home / "chips"
    info = load_info("chips")
    assert info.probe["names"] == ["x"] and torch.equal(info.probe["weights"], torch.ones(3, 1))
    assert list(info.evaluation) == [*shipped, "mine"]
    found = load_decoder("chips", model, info)
    bundled = load_decoder(BUNDLED_FOLDER / "chips", model, info)
    assert found is not None and bundled is not None
    bias = decoder.network.conv[0].bias  # type: ignore[union-attr, index]
    assert torch.allclose(found.network.conv[0].bias, bias, atol=1e-2)  # type: ignore[union-attr, index]
    assert contents(BUNDLED_FOLDER) == before


def test_findings_about_a_folder_are_written_beside_the_model(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(BUNDLED_FOLDER / "maze", folder)
    surprise = {"levels": [0.5], "limits": {"latents": [1.25]}}
    assert write_finding(folder, "surprise", surprise) == folder / "surprise.json"
    assert load_info(folder).surprise == surprise and not home.exists()


def test_a_new_model_keeps_only_the_findings_that_come_with_it(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "tiny")
    write_finding(folder, "calibration", {"key": {"margin": 0.1}})
    write_finding(folder, "familiar", {"mean": torch.zeros(3)})
    model, _, info = load_checkpoint(folder)
    assert info.calibration and info.familiar
    save_checkpoint(folder, model, replace(info, calibration={}))
    info = load_info(folder)
    assert not info.calibration and torch.equal(info.familiar["mean"], torch.zeros(3))


@pytest.mark.parametrize("file", ["surprise.json", "probe.safetensors"])
def test_a_damaged_finding_is_named(tmp_path: Path, file: str) -> None:
    folder = tiny_checkpoint(tmp_path / "tiny")
    (folder / file).write_bytes(b"{")
    with pytest.raises(UserError, match=f"{file} is damaged"):
        load_info(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_writable_is_named(home: Path) -> None:
    home.parent.mkdir()
    home.parent.chmod(0o500)
    with pytest.raises(UserError, match="WORLDMODEL_HOME"):
        write_finding("maze", "surprise", {})


def test_json_files_of_the_repository_are_small() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("worldmodel", "results", "docs", "configs", "tests", "envs")
        for path in (ROOT / folder).rglob("*.json")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 300
    }
    assert not long
    config = (BUNDLED_FOLDER / "pusht" / "config.json").read_text(encoding="utf-8")
    assert len(config.splitlines()) < 100
