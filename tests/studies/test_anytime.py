"""Success under time limits: every limit and checkpoint has a point, and limits hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tiny import tiny_checkpoint

from worldmodel.studies.__main__ import main


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.mark.slow
def test_longer_limits_give_more_model_steps(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "anytime.json"
    arguments = ["--env", "worldmodel/PushT-v0", "--checkpoints", f"{tiny},pusht"]
    arguments += ["--episodes", "2", "--budget-steps", "10", "--limits", "[500, 5]"]
    assert main(["anytime", *arguments, "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    points = [(point["checkpoint"], point["limit"]) for point in result["points"]]
    assert points == [(str(tiny), 5.0), (str(tiny), 500.0), ("pusht", 5.0), ("pusht", 500.0)]
    printed = capsys.readouterr().out
    for little, much in (result["points"][:2], result["points"][2:]):
        assert little["decisions"]["count"] == much["decisions"]["count"] == 4
        assert little["decisions"]["model_calls"]["max"] < much["decisions"]["model_calls"]["p50"]
        assert f"| {much['checkpoint']} | 500 | " in printed
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limits", "[0, 5]"], "limits is \\[0.0, 5.0\\]"),
        (["--planner", "gradient"], "a fixed number of steps"),
        (["--checkpoints", "nobody"], "no checkpoint 'nobody'"),
    ],
)
def test_bad_input_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--env", "worldmodel/PushT-v0", "--out", str(tmp_path / "anytime.json")]
    assert main(["anytime", *out, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.out == ""
    assert re.search(message, captured.err)
