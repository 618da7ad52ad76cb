"""Checkpoints of the Hugging Face Hub, from a server that speaks its protocol."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import TOKEN, Hub, commit_of, running_hub
from tiny import tiny_checkpoint

from worldmodel.models.findings import writable_path

NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9"}
LOAD = "import worldmodel; print(worldmodel.load('hf:me/model').info.env_id)"
ASK = """
import json, sys
from worldmodel import UserError
from worldmodel.models.checkpoint import load_info
answers = {}
for name in sys.argv[1:]:
    try:
        answers[name] = load_info(name).env_id
    except UserError as error:
        answers[name] = str(error)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint")


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[Hub]:
    with running_hub() as hub:
        hub.add("me/model", checkpoint)
        yield hub


def python(hub: Hub, home: Path, *arguments: str, **environment: str) -> tuple[str, str]:
    """Standard output and error of a Python process that talks to the hub."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=hub.environment(home, **environment),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout, done.stderr


def ask(hub: Hub, home: Path, *names: str, **environment: str) -> dict[str, str]:
    """The environment of each checkpoint, or why it cannot be read."""
    out, err = python(hub, home, "-c", ASK, *names, **environment)
    assert out, err
    answers: dict[str, str] = json.loads(out)
    return answers


def test_a_name_loads_and_then_needs_no_network(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    hub.repositories["me/model"] |= {"README.md": b"card", "optimizer.pt": b"large"}
    out, err = python(hub, tmp_path, "-c", LOAD)
    assert out.strip() == "worldmodel/PushT-v0", err
    assert sorted(hub.fetched) == ["config.json", "model.safetensors"]
    pinned = f"hf:me/model@{commit_of(hub.repositories['me/model'])}"
    answers = ask(hub, tmp_path, "hf:me/model", pinned, **NOWHERE)
    assert list(answers.values()) == ["worldmodel/PushT-v0"] * 2


def test_findings_and_an_own_encoder_come_along(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    """From a private repository, with a token."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    (folder / "surprise.json").write_text('{"levels": [0.5]}')
    (folder / "encoder").mkdir()
    (folder / "encoder" / "weights.pth").write_bytes(b"weights")
    hub.add("me/private", folder)
    hub.private.add("me/private")
    answers = ask(hub, tmp_path / "home", "hf:me/private", HF_TOKEN=TOKEN)
    assert answers["hf:me/private"] == "worldmodel/PushT-v0"
    assert sorted(hub.fetched) == [
        *("config.json", "encoder/weights.pth", "model.safetensors", "surprise.json")
    ]


def test_what_cannot_be_loaded_is_named(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    hub.repositories["me/private"] = hub.repositories["me/model"]
    hub.private.add("me/private")
    hub.repositories["me/bert"] = {"config.json": b'{"layers": 12}', "model.safetensors": b"big"}
    hub.repositories["me/empty"] = {"README.md": b"nothing"}
    hub.repositories["me/broken"] = {"config.json": b"{"}
    wrong = {
        "hf:me/nothing": "no repository hf:me/nothing on http://127.0.0.1",
        "hf:me/private": "or it is private: check the name, or log in",
        "hf:me/model@v9": "no such revision",
        "hf:me/bert": "config.json lacks format_version, encoder_hash",
        "hf:me/empty": "it has no config.json",
        "hf:me/broken": "config.json is not valid",
        "hf:model": "write USER/NAME",
        "hf:me/-": "names no repository",
        "me/model": "hf:USER/NAME is one on the Hugging Face Hub",
    }
    answers = ask(hub, tmp_path, *wrong)
    for name, message in wrong.items():
        assert message in answers[name], answers[name]
    assert "model.safetensors" not in hub.fetched  # of other software, it may be large


def test_no_network_is_one_line(hub: Hub, tmp_path: Path) -> None:
    out, err = python(hub, tmp_path, "-m", "worldmodel.inspect", "hf:me/model", **NOWHERE)
    assert not out and err.count("\n") == 1
    assert err.startswith("error: cannot reach http://127.0.0.1:9 for hf:me/model (ConnectError")
    assert "HF_ENDPOINT" in err and "HF_HOME" in err


def test_findings_about_a_download_are_written_to_the_users_folder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLDMODEL_HOME", str(tmp_path / "home"))
    folder = tmp_path / "models--me--model" / "snapshots" / ("0" * 40)
    shutil.copytree(checkpoint, folder)
    home = tmp_path / "home" / "checkpoints" / "models--me--model" / ("0" * 40)
    assert writable_path(folder, "surprise.json") == home / "surprise.json" and home.is_dir()
