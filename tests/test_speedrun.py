"""examples/speedrun.sh: from nothing to a table of worlds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def speedrun(out: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "examples/speedrun.sh"],
        cwd=ROOT,
        env={**os.environ, "OUT": str(out), **settings},
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_an_unknown_world_is_named(tmp_path: Path) -> None:
    done = speedrun(tmp_path, WORLDS="pushy")
    assert done.returncode == 2
    assert "there is no world 'pushy': there are pusht maze chips" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_makes_a_model_and_a_table_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    settings = {"WORLDS": "pusht", "PERCENT": "1", "MINUTES": "0.1", "TASKS": "3"}
    done = speedrun(tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "README.md").read_text()
    assert "| pusht | 25 steps ahead | 3 |" in table
    weights = tmp_path / "pusht" / "checkpoint" / "model.safetensors"
    result = tmp_path / "results" / "pusht.json"
    assert (weights.parent / "decoder.safetensors").exists()
    before = [path.stat().st_mtime_ns for path in (weights, result)]
    again = speedrun(tmp_path, **settings)
    assert again.returncode == 0, again.stderr
    assert "nothing was missing" in again.stdout
    assert [path.stat().st_mtime_ns for path in (weights, result)] == before
