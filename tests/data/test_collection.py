"""Collection: workers, interruptions, other content of the folder."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dot import command, dot, same_files
from processes import started

from worldmodel.data.collection import collect
from worldmodel.data.dataset import open_dataset
from worldmodel.errors import UserError


def test_workers_change_nothing(recorded: Path, tmp_path: Path) -> None:
    collect(dot(tmp_path / "dot", workers=2))
    assert same_files(recorded, tmp_path / "dot")
    assert open_dataset(tmp_path / "dot").hash == open_dataset(recorded).hash


def test_bundled_env_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    both = []
    for workers in (1, 2):
        config = dot(
            tmp_path / f"{workers}",
            env="worldmodel/PushT-v0",
            policy="explore",
            episodes=21,
            steps=4,
            workers=workers,
        )
        result = collect(config)
        assert 0 <= result["contact"] <= 1 and result["frames"] == 21 * 5
        both.append(open_dataset(config.out))
    assert same_files(both[0].path, both[1].path)
    assert both[0].hash == both[1].hash and both[0].state_names[0] != ""
    assert both[0].proprio.shape == (105, len(both[0].proprio_names))


def test_another_seed_is_another_dataset(recorded: Path, tmp_path: Path) -> None:
    collect(dot(tmp_path / "dot", seed=4, episodes=2))
    other, data = open_dataset(tmp_path / "dot"), open_dataset(recorded)
    assert other.hash != data.hash
    assert not np.array_equal(other.proprio[0], data.proprio[0])


@pytest.mark.slow
def test_killed_collection_continues_to_the_same_dataset(
    recorded: Path, module: Path, tmp_path: Path
) -> None:
    out = tmp_path / "dot-v3"
    options: dict[str, Any] = {"start_new_session": True, "stderr": subprocess.DEVNULL}
    deadline = time.monotonic() + 60
    with started(**command(module, out, DOT_SLEEP="0.003"), **options) as process:
        while not list(out.glob("data/shard-*.hdf5")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("data/shard-*.hdf5")}
    assert 0 < len(kept) < 3
    with pytest.raises(UserError, match="not complete: run the command that makes it again"):
        open_dataset(out)
    while _alive(process.pid):  # the worker must notice, or it would write into the second run
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (out / "data" / ".shard-of-a-killed-run").write_bytes(b"half")
    again = subprocess.run(**command(module, out), capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert same_files(recorded, out) and open_dataset(out).hash == open_dataset(recorded).hash
    assert all((out / "data" / name).stat().st_mtime_ns == mtime for name, mtime in kept.items())
    assert not list(out.glob("data/.*"))
    for line in ("episodes   45", "frames ", "frames/s", "of steps", " MB in", "dot-v3"):
        assert line in again.stdout
    third = subprocess.run(**command(module, out), capture_output=True, text=True, timeout=60)
    assert "nothing was missing" in third.stdout


def _alive(session: int) -> bool:
    """Whether any process of this session is left."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == session and fields[0] != "Z":
            return True
    return False


@pytest.mark.slow
def test_ctrl_c_keeps_finished_shards(recorded: Path, module: Path, tmp_path: Path) -> None:
    out = tmp_path / "dot"
    options: dict[str, Any] = {"start_new_session": True, "stderr": subprocess.PIPE}
    with started(**command(module, out, DOT_SLEEP="0.003"), **options) as process:
        while not list(out.glob("data/shard-*.hdf5")):
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: parent and workers
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in printed
    assert not list(out.glob("data/.*")) and not (out / "data" / "metadata.json").exists()


def test_a_dataset_can_be_extended(recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "dot"
    collect(dot(out, episodes=25))
    first = open_dataset(out)
    result = collect(dot(out, episodes=45))
    assert result["new_frames"] < result["frames"]  # the full first shard was not collected again
    assert same_files(recorded, out)
    assert open_dataset(out).hash != first.hash
    with pytest.raises(UserError, match="45 episodes: ask for as many or more, not 25"):
        collect(dot(out, episodes=25))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "its seed is 3, not 4"),
        ({"steps": 13}, "its steps is 12, not 13"),
        ({"env_kwargs": {"radius": 5}}, "its env_kwargs is {.*}, not {'radius': 5}"),
    ],
)
def test_other_settings_need_another_folder(
    recorded: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        collect(dot(recorded, **changes))


def test_folders_with_other_content_are_refused(module: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="already holds thesis.tex"):
        collect(dot(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make folder"):
        collect(dot(tmp_path / "file" / "out"))


def test_full_disk_is_one_error_and_no_partial_file(module: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    out = tmp_path / "dot"
    options: dict[str, Any] = {"preexec_fn": limit, "timeout": 60}
    done = subprocess.run(**command(module, out), capture_output=True, text=True, **options)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "cannot write" in errors[0] and "File too large" in errors[0]
    assert "Traceback" not in done.stderr
    assert not list(out.glob("data/*")) and not list(out.glob("data/.*"))


def test_workers_do_not_import_torch(recorded: Path) -> None:
    code = "import worldmodel.collect, envs, sys; raise SystemExit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)
