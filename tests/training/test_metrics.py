"""TensorBoard shows what metrics.jsonl holds, and pictures where there is a decoder."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import CONFIG, tiny_checkpoint
from tiny_run import small_run

from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.models.decoder import Decoder, latents_hash, save_decoder
from worldmodel.train import main
from worldmodel.training.trainer import train


@pytest.mark.slow
def test_a_resumed_run_in_tensorboard(maze: Path, tmp_path: Path) -> None:
    """A run to step 6 that was resumed twice from step 3 shows every step once."""
    teacher = tiny_checkpoint(tmp_path / "teacher", "worldmodel/Maze-v0")
    model, _, info = load_checkpoint(teacher)
    save_decoder(teacher, Decoder(model, 32), latents_hash(model, info.encoder_hash), {})
    settings = replace(
        small_run(maze, "watched", steps=3, log_every=1, validate_every=3, tensorboard=True),
        teacher=str(teacher),
        model=CONFIG,
        out=str(tmp_path / "run"),
    )
    train(settings)
    state = tmp_path / "run" / "state.pt"
    shutil.copy(state, tmp_path / "third.pt")
    longer = replace(settings, steps=6, resume=True)
    for _ in range(2):
        shutil.copy(tmp_path / "third.pt", state)
        train(longer)

    shown = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    shown.Reload()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "predict", "grad_norm"):
        values = {row["step"]: row[name] for row in rows if name in row}
        events = {event.step: event.value for event in shown.Scalars(name)}
        assert events == pytest.approx(values) and len(events) == len(shown.Scalars(name))
    errors = {row["step"]: row["val_error"] for row in rows if "val_error" in row}
    for depth in (1, 2):
        events = {event.step: event.value for event in shown.Scalars(f"val_error/{depth}")}
        assert events == pytest.approx({step: each[depth - 1] for step, each in errors.items()})

    pictures = shown.Images("imagined")
    assert [picture.step for picture in pictures] == [3, 6]
    with Image.open(io.BytesIO(pictures[-1].encoded_image_string)) as picture:
        assert picture.size == (2 * 32, 4 * 2 * 32)  # two steps ahead; four clips, two rows each


def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    flags = ["--data", "nowhere", "--out", str(tmp_path / "run"), "--tensorboard", "true"]
    assert main(flags) == 2
    assert "pip install 'worldmodel[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
