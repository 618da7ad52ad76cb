"""The recording of an episode for Rerun, read back."""

from __future__ import annotations

import importlib.util
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import tiny_checkpoint

from worldmodel.measure.environments import make_env
from worldmodel.measure.goals import save_goal
from worldmodel.measure.tasks import sample_tasks
from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.models.decoder import Decoder, latents_hash, save_decoder
from worldmodel.plan import main

PUSHT = "worldmodel/PushT-v0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkpoint/ with a decoder, and goal.png."""
    folder = tmp_path_factory.mktemp("rerun")
    checkpoint = tiny_checkpoint(folder / "checkpoint")
    model, _, info = load_checkpoint(checkpoint)
    save_decoder(checkpoint, Decoder(model, 32), latents_hash(model, info.encoder_hash), {})
    env = make_env(PUSHT, {})
    save_goal(sample_tasks(env, 1, 0, 25)[0], env, folder / "goal.png")
    env.close()
    return folder


def flags(folder: Path, **changed: Any) -> list[str]:
    given = {"env": PUSHT, "goal": folder / "goal.png", "checkpoint": folder / "checkpoint"}
    given |= {"agent.samples": 8, "agent.iterations": 3, "steps": 7, "out": folder / "out"}
    given |= {"guardrail": "no_go:disc=0.05:0.05:0.01", **changed}
    return [word for key, value in given.items() if value for word in (f"--{key}", str(value))]


def entities(path: Path) -> dict[str, dict[int | None, Any]]:
    """What each entity shows at each step; None: at all steps."""
    chunk = pytest.importorskip("rerun.chunk")  # of newer versions
    found: dict[str, dict[int | None, Any]] = defaultdict(dict)
    for each in chunk.RrdReader(str(path)).stream().to_chunks():
        rows = each.to_record_batch()
        for name in rows.schema.names:
            if name.endswith((":scalars", ":buffer", ":values")):
                steps = [None] if each.is_static else rows.column("step").to_pylist()
                values = rows.column(name).to_pylist()
                found[each.entity_path].update(zip(steps, values, strict=True))
    return found


def test_a_recording_shows_what_the_report_says(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "plan.rrd"
    assert main(flags(folder, rerun=path)) == 0
    assert str(path) in capsys.readouterr().out
    assert [each.name for each in path.parent.iterdir()] == ["plan.rrd"]
    report = json.loads((folder / "out" / "report.json").read_text())
    shown = entities(path)
    actions = [[shown[f"/actions/{n}"][step][0] for n in (0, 1)] for step in range(7)]
    np.testing.assert_allclose(actions, report["actions"])
    costs = {step: cost for step, (cost,) in shown["/cost"].items()}
    assert costs == pytest.approx({plan["step"]: plan["cost"] for plan in report["plans"]})
    assert shown["/distance"][0] == pytest.approx([report["latent_distance"]["start"]])
    assert sorted(shown["/observation"]) == list(range(8)) and list(shown["/goal"]) == [None]
    assert {len(image[0]) for image in shown["/observation"].values()} == {112 * 112 * 3}
    assert [len(shown["/search"][step][0]) for step in (0, 5)] == [3, 3]  # iterations
    for depth in (1, 2, 3):
        assert [len(shown[f"/imagined/{depth}"][step][0]) for step in (0, 5)] == [32 * 32 * 3] * 2
    assert sorted(shown["/clearance"]) == [0, 5]


def test_wrong_input_is_named(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    once = flags(folder, env=None, steps=None, image=folder / "goal.png", rerun="a.rrd")
    assert main(once) == 2 and "--rerun goes with --env" in capsys.readouterr().err
    assert main(flags(folder, rerun=tmp_path)) == 2 and "a folder" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(flags(folder, rerun=tmp_path / "a.rrd")) == 2
    assert "pip install 'worldmodel[rerun]'" in capsys.readouterr().err
