"""What a model is, in twenty lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import tiny_checkpoint

from worldmodel.inspect import main


def test_a_bundled_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pusht"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 20
    assert "latents      1 x 6, representation planar_pose" in shown and "dx -0.02 to 0.02" in shown
    assert "read off one image: pusher_x 1.00" in shown and "POOR" not in shown
    assert "of 300 episodes, push25" in shown


@pytest.mark.parametrize(("error", "poor"), [(0.04, False), (0.09, True)])
def test_a_run_with_its_held_out_errors(
    error: float, poor: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "run" / "checkpoint")
    lines = [{"step": 1, "loss": 1.0}, {"step": 1, "val_error": [error], "val_copy": [0.1]}]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["--checkpoint", str(checkpoint)]) == 0
    shown = capsys.readouterr().out
    assert f"error {error:.3f} of spread one step ahead (no change: 0.100)" in shown
    assert ("POOR: hardly better than no change" in shown) == poor


def test_no_checkpoint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: no checkpoint 'nowhere'")
