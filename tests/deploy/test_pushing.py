"""Uploads to a server that speaks the Hub's protocol; the uploaded model loads from there."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub import TOKEN, Hub, running_hub
from tiny import tiny_checkpoint
from uploads import png

from worldmodel.push import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint")
    (folder / "surprise.json").write_text('{"levels": [0.5]}')
    (folder / "notes.txt").write_text("not part of a checkpoint")
    return folder


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def python(hub: Hub, folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit status and outputs of a Python process in `folder` that talks to the hub."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=hub.environment(folder / "home", **environment),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def evaluated(checkpoint: str, folder: Path) -> Path:
    """A result of `evaluate` about a checkpoint: the tracked one of a bundled model, renamed."""
    result = json.loads((ROOT / "results/pusht.json").read_text())
    path = folder / "result.json"
    path.write_text(json.dumps({**result, "checkpoint": checkpoint}))
    return path


def test_a_checkpoint_is_uploaded_with_a_card_whose_example_runs(
    hub: Hub, checkpoint: Path, tmp_path: Path
) -> None:
    hub.repositories["me/model"] = {"probe.safetensors": b"of an earlier model", "own.md": b"kept"}
    push = ("-m", "worldmodel.push", "--checkpoint", str(checkpoint), "--to", "me/model")
    status, out, err = python(hub, tmp_path, *push, HF_TOKEN=TOKEN)
    assert status == 0 and out == f"wrote {hub.url}/me/model\n", err
    assert "names no license" in err
    (created,) = hub.created
    assert created.get("visibility") == "private" or created.get("private")
    files = hub.repositories["me/model"]
    assert sorted(files) == [
        *("README.md", "config.json", "model.safetensors", "own.md", "surprise.json")
    ]
    card = files["README.md"].decode()
    weights = (checkpoint / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in card and str(checkpoint.parent) not in card

    (example,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    for name in ("now", "goal"):
        (tmp_path / f"{name}.png").write_bytes(png())
    status, out, err = python(hub, tmp_path, "-c", example)
    assert status == 0 and len(out.strip("[]\n").split()) == 2, err


def test_without_a_token_nothing_is_uploaded(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    push = ("-m", "worldmodel.push", "--checkpoint", str(checkpoint), "--to", "me/model")
    status, out, err = python(hub, tmp_path, *push, "--license", "mit")
    assert status == 2 and not out and err.startswith("error: ") and err.count("\n") == 1
    assert "log in" in err and "me/model" in err and not hub.repositories


def flags(**given: Any) -> list[str]:
    return [word for key, value in given.items() for word in (f"--{key}", str(value))]


def test_a_folder_holds_what_would_be_uploaded(checkpoint: Path, tmp_path: Path) -> None:
    result = evaluated(str(checkpoint), tmp_path)
    out = tmp_path / "new" / "card"
    right = {"checkpoint": checkpoint, "to": "me/model", "out": out}
    assert main(flags(**right, results=result, license="apache-2.0")) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        *("README.md", "config.json", "model.safetensors", "surprise.json")
    ]
    assert [path.name for path in out.parent.iterdir()] == ["card"]
    _, header, card = (out / "README.md").read_text().split("---\n", 2)
    content = yaml.safe_load(header)
    assert content["license"] == "apache-2.0" and content["library_name"] == "worldmodel"
    assert content["pipeline_tag"] == "robotics" and "world-model" in content["tags"]
    found = json.loads(result.read_text())
    rate = found["success_any"]
    row = f"{100 * rate['rate']:.1f} % ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"
    assert f"| {found['episodes']} | {row} |" in card and found["provenance"]["command"] in card
    assert "plan --env worldmodel/PushT-v0 --checkpoint hf:me/model --goal goal.png" in card


def test_wrong_input_is_named_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = evaluated("runs/other", tmp_path)
    right = {"checkpoint": checkpoint, "to": "me/model", "out": tmp_path / "card"}
    (tmp_path / "list.json").write_text("[]")
    for more, message in (
        ({"results": other}, "is about checkpoint runs/other"),
        ({"results": tmp_path / "list.json"}, "is it the right file?"),
        ({"results": tmp_path / "none.json"}, "cannot read"),
        ({"to": "model"}, "write USER/NAME"),
        ({"checkpoint": "nowhere"}, "no checkpoint 'nowhere'"),
        ({"out": tmp_path}, "exists: choose another --out"),
    ):
        assert main(flags(**{**right, **more})) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.json", "result.json"]
