"""One command adds everything to a checkpoint that is measured after training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import tiny_checkpoint

from worldmodel import collect, finish
from worldmodel.models.checkpoint import load_info
from worldmodel.models.decoder import how_trained

SHORT = ["--decoder_steps", "2", "--familiar_frames", "50", "--surprise_episodes", "2"]
SHORT += ["--calibration_episodes", "19", "--agent.samples", "4", "--agent.iterations", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finish") / "data"
    arguments = ["--env", "worldmodel/Maze-v0", "--out", str(out), "--episodes", "12"]
    assert collect.main([*arguments, "--steps", "40", "--workers", "1"]) == 0
    return out


@pytest.mark.slow
def test_every_step_stores_its_result(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", "worldmodel/Maze-v0")
    arguments = ["--checkpoint", str(checkpoint), "--data", str(data), *SHORT]
    assert finish.main([*arguments, "--guardrail", "no_go:x=0:0.05,y=0:0.05"]) == 0
    printed = capsys.readouterr()
    for number, name in enumerate(("probe", "decoder", "familiar", "surprise", "calibrate"), 1):
        assert f"{number}/5 {name} ..." in printed.err
        assert f"{name}: " in printed.out
    info = load_info(checkpoint)
    assert "skipped" not in printed.out, printed.out
    assert info.probe and info.familiar and info.surprise and info.calibration
    assert how_trained(checkpoint) is not None


@pytest.mark.slow
def test_steps_that_cannot_be_done_are_skipped_with_a_reason(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Logs of a robot whose environment cannot be made."""
    robot = tmp_path / "robot"
    shutil.copytree(data, robot)
    metadata = robot / "data" / "metadata.json"
    content = json.loads(metadata.read_text())
    content["worldmodel"]["env"] = "somebody/Robot-v0"
    metadata.write_text(json.dumps(content))
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", "worldmodel/Maze-v0")
    config = json.loads((checkpoint / "config.json").read_text())
    config["env_id"] = "somebody/Robot-v0"
    (checkpoint / "config.json").write_text(json.dumps(config))
    arguments = ["--checkpoint", str(checkpoint), "--data", str(robot), *SHORT]
    assert finish.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "surprise: skipped: " in printed and "somebody/Robot-v0" in printed
    assert "calibrate: skipped: no --guardrail" in printed
    assert load_info(checkpoint).familiar


def test_data_of_another_environment_is_refused(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finish.main(["--checkpoint", "pusht", "--data", str(data)]) == 2
    assert f"{data} is of worldmodel/Maze-v0" in capsys.readouterr().err
