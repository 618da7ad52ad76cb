"""The arithmetic behind the comparison with other libraries: what is scaled, paired and printed.

Nothing is installed or timed here; that is `tests/bench/bench_peers.py` itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench_peers
import pytest
from bench_peers import FailedError, PeersConfig, Worker, bend, row, scaled, table
from peers_cases import OURS, Peer

from worldmodel.errors import UserError

SIZE = {"parameters": 20_000_000, "tokens": [196, 404], "flops": 8e10}
MINE = {"parameters": 4_000_000, "tokens": [1, 6], "flops": 1e7}
SLOW = Peer("DINO-WM", "torch-world", "DINOWM", ((300, 10), (300, 30)), True, OURS)


def found(theirs: dict, ours: dict, **more: Any) -> dict[str, Any]:
    """What `rounds` would have found."""
    sizes = {"size": SIZE, "ours_size": dict.fromkeys(ours, MINE)}
    return {"peer": theirs, "ours": ours, "alone": {}, "ceiling": [2e11], **sizes, **more}


def test_time_is_proportional_to_samples_and_iterations() -> None:
    assert scaled(100.0, (8, 1), (300, 10)) == pytest.approx(37_500)
    assert scaled(100.0, (300, 10), (300, 30)) == pytest.approx(300)
    assert scaled(100.0, (300, 10), (300, 10)) == 100


def test_bend_tells_whether_it_is() -> None:
    assert bend({(4, 1): [40.0], (8, 1): [80.0]}) == pytest.approx(0)
    assert bend({(8, 1): [88.0], (4, 1): [40.0]}) == pytest.approx(0.1)
    assert bend({(4, 1): [40.0, 40.0, 90.0], (8, 1): [72.0, 1.0, 99.0]}) == pytest.approx(-0.1)


def test_a_short_timing_is_scaled_from_the_larger_number_of_samples() -> None:
    theirs = {(4, 1): [40.0], (8, 1): [88.0]}
    line = row(SLOW, "fp32", (300, 30), found(theirs, {"pusht": {(300, 30): [330.0]}}))
    assert line["ms"] == pytest.approx(88 / 8 * 300 * 30)
    assert line["scaled_from"] == {"samples": 8, "iterations": 1}
    assert line["bend"] == pytest.approx(0.1)
    assert line["ours"]["pusht"]["ratio"] == pytest.approx(300)
    assert line["flops"] == pytest.approx(8e10 * 300 * 30)


def test_a_whole_plan_is_not_scaled() -> None:
    line = row(SLOW, "fp32", (300, 10), found({(300, 10): [5.0]}, {"pusht": {(300, 10): [2.0]}}))
    assert line["ms"] == 5 and line["ours"]["pusht"]["ratio"] == 2.5
    assert "scaled_from" not in line and "bend" not in line


def test_a_model_of_equal_size_is_timed_beside_each_library() -> None:
    timed = found({(4, 1): [40.0], (8, 1): [80.0]}, {"pusht": {(300, 10): [5.0]}})
    timed |= {"equal": {(4, 1): [12.0], (8, 1): [20.0]}, "equal_size": SIZE}
    line = row(SLOW, "fp32", (300, 10), timed)
    assert line["equal"]["ms"] == pytest.approx(20 * 3002 / 10)  # 8 samples and 2 more rollouts
    assert line["equal"]["ratio"] == pytest.approx(80 / 8 * 3000 / (20 * 3002 / 10))
    head, cells = rows_of(table({"threads": 2, "torch": "2.9", "rounds": 1, "rows": [line]}))
    assert cells[head.index("ours of equal size, ms")] == "6,004"
    assert cells[head.index("ours of equal size, ms") + 1] == "5"


def test_the_ratio_is_of_neighbours_so_a_busy_moment_cancels() -> None:
    theirs, mine = [20.0, 200.0, 2000.0], [10.0, 100.0, 10.0]  # of medians it would be 20
    line = row(SLOW, "fp32", (300, 10), found({(300, 10): theirs}, {"maze": {(300, 10): mine}}))
    assert line["ours"]["maze"]["ratio"] == 2
    assert line["ours"]["maze"]["ms"] == 10 and line["ms"] == 200


def test_what_is_timed_once_is_paired_with_the_first() -> None:
    theirs = {(4, 1): [4.0, 4.0], (8, 1): [8.0, 80.0]}
    line = row(SLOW, "bf16", (300, 30), found(theirs, {"pusht": {(300, 30): [90.0]}}))
    assert line["ours"]["pusht"]["ratio"] == pytest.approx(100)


def rows_of(text: str) -> list[list[str]]:
    """Cells of the lines of a Markdown table, head first."""
    lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_says_what_was_scaled_and_what_failed() -> None:
    slow = found(
        {(4, 1): [4000.0], (8, 1): [8000.0]},
        {"pusht": {(300, 10): [500.0]}, "maze": {(300, 10): [1500.0]}},
    )
    error = {
        "model": "LeWM",
        "library": "torch-world",
        "precision": "bf16",
        "error": "crashed: a|b",
    }
    rows = [row(SLOW, "fp32", (300, 10), slow), error]
    text = table({"threads": 2, "torch": "2.9", "rounds": 1, "rows": rows})
    head, first, second = rows_of(text)
    assert {len(head)} == {len(first), len(second)}
    cells = dict(zip(head, first, strict=True))
    assert cells["ms per plan"] == "3,000,000 (scaled from 8 samples x 1 iteration)"
    assert cells["our pusht, ms"] == "500" and cells["tokens per frame"] == "196 x 404"
    ratios = [cell for name, cell in zip(head, first, strict=True) if name == "theirs / ours"]
    assert ratios == ["", "6,000", "", "2,000"]
    assert cells["of the ceiling"] == "40%"  # 240 TFLOP in 50 minutes, of 200 GFLOP/s
    assert dict(zip(head, second, strict=True))["ms per plan"] == "crashed: a/b"
    assert "1,000 ms with 4, 1,000 ms with 8 at once (+0.0%)" in text
    assert "200 GFLOP/s in fp32" in text and "GFLOP/s in bf16" not in text


def test_times_that_are_not_proportional_are_doubted() -> None:
    for late, doubted in ((8.8, False), (12.0, True)):
        timed = found({(4, 1): [4.0], (8, 1): [late]}, {"pusht": {(300, 10): [5.0]}})
        rows = [row(SLOW, "fp32", (300, 10), timed)]
        text = table({"threads": 2, "torch": "2.9", "rounds": 1, "rows": rows})
        assert ("not proportional" in text) == doubted


def test_what_the_model_takes_alone_is_taken_off_both() -> None:
    peer = Peer("MPPI", "pytorch-mppi", "theirs pusht", ((300, 1),), False, {}, "alone pusht")
    timed = found({(300, 1): [50.0]}, {"pusht": {(300, 1): [40.0]}}, alone={(300, 1): [30.0]})
    line = row(peer, "bf16", (300, 1), timed)
    text = table({"threads": 2, "torch": "2.9", "rounds": 1, "rows": [line]})
    assert "leaves 20 ms to theirs and 10 ms to ours" in text


# --------------------------------------------------------------------------- processes and errors
def fake_python(folder: Path, text: str) -> None:
    """A library's environment that is there already, whose Python is a shell script."""
    python = folder / "torch-world" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{text}\n")
    python.chmod(0o755)
    wanted = bench_peers.requirements("torch-world")
    (folder / "torch-world" / "installed.json").write_text(json.dumps(wanted))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo Killed >&2; exit 3", "crashed: exit status 3, Killed"),
        ("""read line; echo '{"error": "ImportError: no such thing"}'""", "no such thing"),
    ],
)
def test_a_failing_library_is_reported_with_its_reason(
    tmp_path: Path, script: str, message: str
) -> None:
    fake_python(tmp_path, script)
    python = bench_peers.environment("torch-world", tmp_path)
    with Worker("torch-world", python, tmp_path, threads=1) as worker:
        with pytest.raises(FailedError, match=message):
            worker.ask(case="DINOWM")


@pytest.mark.slow
def test_what_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # as without a network, but at once
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(FailedError, match=r"could not be installed: .*torch-world==0\.2\.0"):
        bench_peers.environment("torch-world", tmp_path)
    assert not (tmp_path / "torch-world" / "installed.json").exists()


@pytest.mark.slow
def test_libraries_that_fail_have_rows_that_say_so(tmp_path: Path) -> None:
    fake_python(tmp_path, "exit 3")
    config = PeersConfig(envs=tmp_path, only=["torch-world"])
    rows = [line for lines in bench_peers.time_all(config, threads=1) for line in lines]
    assert {line["error"] for line in rows} == {"crashed: exit status 3"}
    assert len(rows) == 4  # two models, two precisions
    text = table({"threads": 1, "torch": "2.9", "rounds": 3, "rows": rows})
    assert text.count("| crashed: exit status 3 |") == 4


@pytest.mark.slow
def test_our_own_process_times_a_plan(tmp_path: Path) -> None:
    request = {"precision": "bf16", "samples": 4, "iterations": 1, "horizon": 5}
    with Worker("ours", Path(sys.executable), tmp_path, threads=1) as worker:
        answer = worker.ask(case="pusht", **request)
        # One token: every weight is multiplied once a model step.
        assert answer["ms"] > 0
        assert answer["flops"] == pytest.approx(2 * 5 * answer["parameters"], rel=0.1)
        equal = worker.ask(case="untrained 4x64", **request)
        assert equal["tokens"] == [4, 64] and equal["ms"] > 0
        with pytest.raises(FailedError, match="no_such"):
            worker.ask(case="no_such", **request)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"only": ["torchworld"]}, "did you mean 'torch-world'"),
        ({"rounds": 0}, "rounds is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"few": (8, 8)}, "few is"),
    ],
)
def test_bad_settings_are_explained(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PeersConfig(**values)


def test_a_bad_flag_is_one_line_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, bench_peers.__file__, "--round", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "error: unknown flag '--round': did you mean '--rounds'?\n"
    assert not list(tmp_path.iterdir())
