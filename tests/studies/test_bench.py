"""The benchmark times the parts that the flags name. No test asserts a time: machines are busy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_checkpoint

import planners
from planners import Budget
from worldmodel.agent import Agent
from worldmodel.control.config import make_planner
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.studies import bench_parts, bench_scale, clock
from worldmodel.studies.__main__ import main
from worldmodel.studies.bench_config import PARTS, BenchConfig
from worldmodel.studies.bench_training import rehearse
from worldmodel.studies.operations import matrix_operations

FEW_CALLS = BenchConfig(plans=1, seconds=1.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


# ------------------------------------------------------------------------------------ operations
def test_products_forwards_and_backwards_are_counted() -> None:
    layer, x = torch.nn.Linear(8, 4, bias=False), torch.randn(3, 8)
    assert matrix_operations(lambda: layer(x)) == 2 * 3 * 8 * 4
    assert matrix_operations(lambda: layer(x).sum().backward()) == 2 * 2 * 3 * 8 * 4


def test_operations_of_a_plan_are_proportional_to_episodes_and_samples(tiny: Path) -> None:
    loaded, planner = load_checkpoint(tiny), make_planner("cem")
    rows = {
        (episodes, samples): bench_parts.plan_row(
            bench_parts.placed(loaded, planner, None, episodes), Budget(samples, 2), FEW_CALLS
        ).operations
        for episodes, samples in ((1, 8), (2, 8), (1, 16), (1, 24))
    }
    assert rows[2, 8] == 2 * rows[1, 8]  # type: ignore[operator]
    assert rows[1, 24] - rows[1, 16] == rows[1, 16] - rows[1, 8] > 0  # type: ignore[operator]


@pytest.mark.parametrize("name", ["tiny", "pusht", "maze"])
def test_rehearsal_trains_as_the_checkpoint_was_trained(name: str, tiny: Path) -> None:
    _, encoder, info = load_checkpoint(tiny if name == "tiny" else name)
    trainer, loop = rehearse(info, encoder, torch.device("cpu"))
    if name != "tiny":
        assert trainer.config.batch == info.training["batch"]
        assert trainer.config.loss.rollout == info.training["loss"]["rollout"] == 3
    before = [p.clone() for p in trainer.model.predictor.parameters()]
    assert matrix_operations(loop.update) > 0
    after = trainer.model.predictor.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), "it learnt"


# ------------------------------------------------------------------------------------- the clock
def test_timing_skips_the_warm_up_and_ends_at_the_time_limit() -> None:
    calls: list[int] = []
    assert len(clock.timed(lambda: calls.append(1), 3, 100.0)) == 3 and len(calls) == 5
    calls.clear()
    assert len(clock.timed(lambda: calls.append(1), 3, 1e-9)) == 1 and len(calls) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere getrusage says so")
def test_the_memory_of_a_process_is_its_own() -> None:
    held = np.ones(800_000_000, np.uint8)
    ours = clock.peak_mb()
    assert ours > held.nbytes / 1e6
    output = subprocess.run(
        [sys.executable, "-c", "from worldmodel.studies.clock import peak_mb; print(peak_mb())"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=Path(clock.__file__).parents[2],
    )
    assert 20 < float(output.stdout) < ours - 300


# ----------------------------------------------------------------------------------- the command
KEYS = {
    *("part", "name", "calls", "ms_p50", "ms_p99", "value", "unit", "operations", "gflops"),
    *("of_ceiling", "shape", "shape_gflops", "of_shape"),
}
FEW = ["--plans", "1", "--samples", "8", "--iterations", "2", "--horizon", "2", "--seconds", "1"]


@pytest.mark.slow
def test_every_part_is_timed_written_and_drawn(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(clock, "SIZES", (64, 128))
    monkeypatch.setattr(
        bench_scale,
        "RANGES",
        {"samples": (8, 16, 32), "horizon": (1, 2), "episodes": (1, 2)}
        | {"width": (32, 64), "tokens": (1, 4)},
    )
    out = tmp_path / "new" / "bench.json"
    arguments = ["--checkpoint", str(tiny), "--out", str(out), "--episodes", "[1, 2]", *FEW]
    assert main(["bench", *arguments, "--scale", "true"]) == 0
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert result["machine"]["threads"] == torch.get_num_threads()
    assert result["machine"]["torch"] == torch.__version__ and result["machine"]["cpu"] in printed
    assert result["ceiling"]["gflops"] == max(result["ceiling"]["sizes"].values()) > 0
    assert result["peak_mb"] > 0

    names = [row["name"] for row in result["rows"]]
    for episodes in ("1 episode", "2 episodes"):
        for planner in planners.PLANNERS:
            own = "8 x 30 x 3" if planner == "gradient" else "300 x 10 x 3"
            for size in (own, "8 x 2 x 2"):
                assert names.count(f"plan, {planner}, {size}, {episodes}") == 1
    parts = [row["part"] for row in result["rows"]]
    assert {part: parts.count(part) for part in PARTS} == {
        **{"plan": 16, "encode": 2, "train": 1, "collect": 1, "cold": 1}
    }
    for row in result["rows"]:
        assert set(row) == KEYS
        assert row["calls"] >= 1 and 0 < row["ms_p50"] <= row["ms_p99"] and row["value"] > 0
        multiplied = row["part"] in ("plan", "encode", "train")
        assert multiplied == (row["operations"] is not None)
        if multiplied:
            share = row["operations"] / row["ms_p50"] / 1e6 / result["ceiling"]["gflops"]
            assert row["of_ceiling"] == pytest.approx(share, rel=0.01)
            assert row["of_shape"] == pytest.approx(row["gflops"] / row["shape_gflops"])
        assert f"| {row['name']} | {row['calls']} |" in printed
    twice = [row["operations"] for row in result["rows"] if "cem, 8 x 2 x 2" in row["name"]]
    assert twice[1] == 2 * twice[0]

    assert list(result["scale"]) == list(bench_scale.RANGES)
    for name, found in result["scale"].items():
        assert len(found["ms"]) == len(found["values"]) == len(bench_scale.RANGES[name])
        assert f"| scale, {name} " in printed
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_only_the_named_parts_are_timed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(clock, "SIZES", (64,))
    out = tmp_path / "bench.json"
    arguments = ["--checkpoint", str(tiny), "--out", str(out), "--only", "encode,plan", *FEW]
    threads = torch.get_num_threads()
    assert (
        main(["bench", *arguments, "--planners", "mppi", "--episodes", "[2]", "--threads", "1"])
        == 0
    )
    torch.set_num_threads(threads)
    result = json.loads(out.read_text())
    assert [row["part"] for row in result["rows"]] == ["plan", "plan", "encode", "encode"]
    assert result["machine"]["threads"] == 1 and result["scale"] == {}
    assert not out.with_suffix(".png").exists()
    assert "| collect" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_power_law_is_found(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(agent: Agent, budget: Budget, config: BenchConfig) -> bench_parts.Row:
        c = agent.model.config
        size = budget.samples**0.5 * agent.horizon**2 * len(agent.stop_reasons)
        size *= c.tokens**1.5 * c.width**3
        return bench_parts.Row("plan", "", [3.0 * size], "")

    monkeypatch.setattr(bench_scale, "plan_row", row)
    found = bench_scale.bench_scale(BenchConfig(), load_checkpoint(tiny))
    exponents = {name: each["exponent"] for name, each in found.items()}
    assert exponents == pytest.approx(
        {"samples": 0.5, "horizon": 2.0, "episodes": 1.0, "width": 3.0, "tokens": 1.5}
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "plan,fly"], "'fly'.*plan, encode, train, collect, cold"),
        (["--planners", "cem,best"], "'best'.*cem, mppi"),
        (["--plans", "0"], "plans is 0"),
        (["--samples", "3"], "samples is 3"),
        (["--iterations", "-1"], "iterations is -1"),
        (["--episodes", "[1, 0]"], "episodes is \\[1, 0\\]"),
        (["--threads", "0"], "threads is 0"),
        (["--seconds", "0"], "seconds is 0"),
        (["--out", "bench.txt"], "bench.txt.*json"),
        (["--checkpoint", "nowhere"], "nowhere"),
        (["--sample", "4"], "'--samples'"),
    ],
)
def test_bad_input_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = ["--out", str(tmp_path / "bench.json")]
    assert main(["bench", *out, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_new_process_that_fails_says_why(tiny: Path) -> None:
    config = BenchConfig(checkpoint="gone")
    with pytest.raises(UserError, match="new process failed.*no checkpoint 'gone'"):
        list(bench_parts.bench_cold(config, load_checkpoint(tiny)))
