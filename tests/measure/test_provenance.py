"""What a stored result says about its origin."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from worldmodel.measure.provenance import save_result


def test_a_result_names_its_command_without_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results"
    folder.mkdir()
    arguments = [f"--out={folder}/a.json", "--goal", "/elsewhere/goal image.png", "--seed", "3"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/plan", *arguments])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    save_result(folder / "a.json", {"rate": 0.5, "seed": 3})
    result = json.loads((folder / "a.json").read_text())
    assert result["rate"] == 0.5
    origin = result["provenance"]
    assert origin["command"] == "plan --out=results/a.json --goal 'goal image.png' --seed 3"
    assert origin["seed"] == 3 and origin["device"] == "cpu"
    assert origin["machine"]["cores"] >= 1 and "numpy" in origin["versions"]
    with pytest.raises(ValueError, match="JSON"):
        save_result(folder / "b.json", {"rate": float("nan")})
