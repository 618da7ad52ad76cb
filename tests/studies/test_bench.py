"""Operations counted by hand are those that PyTorch counts; the bench measures what it was asked.

No time is asserted: on a busy machine they mean nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_checkpoint
from torch.utils.flop_counter import FlopCounterMode

import planners
from planners import Budget
from worldmodel.agent import AgentConfig
from worldmodel.encoders.encoder import load_encoder
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.models.world_model import DataSpec, ModelConfig, WorldModel
from worldmodel.studies import bench as bench
from worldmodel.studies import operations as operations
from worldmodel.studies.bench import BenchConfig, Rehearsal

SPEC = DataSpec(64, 192, (-1.0,) * 2, (1.0,) * 2, (0.0,) * 4, (1.0,) * 4)
PREDICTORS = {
    "mlp": ModelConfig(predictor="mlp", width=96, depth=3),
    "relative": ModelConfig(1, 6, "relative", width=128, depth=3, projector="pose"),
    "local": ModelConfig(64, 6, "local", width=64, depth=2, projector="components"),
    "adaln": ModelConfig(tokens=9, dim=16, width=64, depth=2),
    "concat": ModelConfig(tokens=9, dim=16, actions="concat", width=64, depth=2),
}


def counted(call: Any) -> int:
    """What PyTorch counts while that runs."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


# ------------------------------------------------------------------------------------ operations
@pytest.mark.parametrize("kind", PREDICTORS)
def test_a_model_step_multiplies_what_was_counted(kind: str) -> None:
    config = PREDICTORS[kind]
    model, batch, k = WorldModel(config, SPEC), 3, config.context
    z = torch.randn(batch, k, config.tokens, config.dim)
    actions = torch.rand(batch, k, 2 * config.frameskip)
    found = counted(lambda: model.predict(z, torch.rand(batch, k, 4), actions))
    assert batch * sum(operations.of_step(model)) == pytest.approx(found, rel=0.001)


@pytest.mark.parametrize("name", ["pusht", "maze", "chips"])
def test_so_does_one_of_what_ships(name: str) -> None:
    model = load_checkpoint(name)[0]
    c, spec = model.config, model.spec
    z = torch.zeros(2, c.context, c.tokens, c.dim)
    proprio = torch.zeros(2, c.context, len(spec.proprio_mean))
    actions = torch.zeros(2, c.context, c.frameskip * len(spec.action_low))
    found = counted(lambda: model.predict(z, proprio, actions))
    assert 2 * sum(operations.of_step(model)) == pytest.approx(found, rel=0.001)


@pytest.mark.parametrize("name", planners.PLANNERS)
def test_a_plan_multiplies_what_was_counted(name: str, tiny: Path) -> None:
    episodes, horizon, budget = 2, 3, Budget(samples=6, iterations=4)
    planner = planners.make(name)
    agent = bench.placed(load_checkpoint(tiny), planner, AgentConfig(horizon=horizon), episodes)
    plans = []

    def call() -> None:
        generator = torch.Generator().manual_seed(0)
        plans.append(planner.plan(agent.problem(), budget, generator))

    found = counted(call)
    hand = operations.of_plan(agent.model, planner, budget, plans[0])
    assert hand == pytest.approx(found, rel=0.001)
    if name != "gradient":  # beside the search: idleness, and the last check
        steps = episodes * horizon * (budget.samples * budget.iterations + 2)
        assert hand == steps * sum(operations.of_step(agent.model))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pusht", "maze"])
def test_the_way_back_through_what_ships_was_counted_too(name: str) -> None:
    budget, planner = Budget(samples=2, iterations=3), planners.make("gradient")
    agent = bench.placed(load_checkpoint(name), planner)
    plans = []
    found = counted(lambda: plans.append(planner.plan(agent.problem(), budget, torch.Generator())))
    hand = operations.of_plan(agent.model, planner, budget, plans[0])
    assert hand == pytest.approx(found, rel=0.001)


def test_an_image_multiplies_what_was_counted() -> None:
    encoder = load_encoder("random-112")
    found = counted(lambda: encoder.encode(np.zeros((2, 112, 112, 3), np.uint8)))
    each = operations.of_encoder(encoder)
    assert each is not None and 2 * each == pytest.approx(found, rel=0.001)


@pytest.mark.parametrize("name", ["tiny", "pusht", "maze"])
def test_a_training_step_multiplies_what_was_counted(name: str, tiny: Path) -> None:
    info = load_checkpoint(tiny if name == "tiny" else name)[2]
    trainer = Rehearsal(info)
    if name != "tiny":  # as it was trained
        assert trainer.config.batch == info.training["batch"]
        assert trainer.config.loss.rollout == info.training["loss"]["rollout"] == 3
    before = [p.clone() for p in trainer.model.predictor.parameters()]
    found = counted(trainer.train_step)
    assert operations.of_train(trainer) == pytest.approx(found, rel=0.001)
    after = trainer.model.predictor.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), "it learnt"


# ------------------------------------------------------------------------------------- the clock
def test_calls_are_counted_after_two_or_until_the_time_is_up() -> None:
    calls: list[int] = []
    assert len(bench.timed(lambda: calls.append(1), 3, 100.0)) == 3 and len(calls) == 5
    calls.clear()
    assert len(bench.timed(lambda: calls.append(1), 3, 1e-9)) == 1 and len(calls) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere getrusage says so")
def test_the_memory_of_a_process_is_its_own() -> None:
    held = np.ones(800_000_000, np.uint8)
    ours = bench.peak_mb()
    assert ours > held.nbytes / 1e6
    said = subprocess.run(
        [sys.executable, "-c", "from worldmodel.studies.bench import peak_mb; print(peak_mb())"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=Path(bench.__file__).parents[2],
    )
    assert 20 < float(said.stdout) < ours - 300


# ----------------------------------------------------------------------------------- the command
KEYS = {
    *("part", "name", "calls", "ms_p50", "ms_p99", "value", "unit", "operations", "gflops"),
    *("of_ceiling", "shape", "shape_gflops", "of_shape"),
}
FEW = ["--plans", "1", "--samples", "8", "--iterations", "2", "--horizon", "2", "--seconds", "1"]


@pytest.mark.slow
def test_every_part_is_measured_written_and_drawn(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(bench, "SIZES", (64, 128))
    monkeypatch.setattr(
        bench,
        "RANGES",
        {"samples": (8, 16, 32), "horizon": (1, 2), "episodes": (1, 2)}
        | {"width": (32, 64), "tokens": (1, 4)},
    )
    out = tmp_path / "new" / "bench.json"
    arguments = ["--checkpoint", str(tiny), "--out", str(out), "--episodes", "[1, 2]", *FEW]
    assert bench.main([*arguments, "--scale", "true"]) == 0
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
    assert {part: parts.count(part) for part in bench.PARTS} == {
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

    assert list(result["scale"]) == list(bench.RANGES)
    for name, found in result["scale"].items():
        assert len(found["ms"]) == len(found["values"]) == len(bench.RANGES[name])
        assert f"| scale, {name} " in printed
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_only_what_was_asked_for_is_measured(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(bench, "SIZES", (64,))
    out = tmp_path / "bench.json"
    arguments = ["--checkpoint", str(tiny), "--out", str(out), "--only", "encode,plan", *FEW]
    threads = torch.get_num_threads()
    assert (
        bench.main([*arguments, "--planners", "mppi", "--episodes", "[2]", "--threads", "1"]) == 0
    )
    torch.set_num_threads(threads)
    result = json.loads(out.read_text())
    assert [row["part"] for row in result["rows"]] == ["plan", "plan", "encode", "encode"]
    assert result["machine"]["threads"] == 1 and result["scale"] == {}
    assert not out.with_suffix(".png").exists()
    assert "| collect" not in capsys.readouterr().out


def test_a_power_law_is_found(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(agent: Any, budget: Budget, config: BenchConfig) -> bench.Row:
        c = agent.model.config
        size = budget.samples**0.5 * agent.horizon**2 * len(agent.stop_reasons)
        size *= c.tokens**1.5 * c.width**3
        return bench.Row("plan", "", [3.0 * size], "")

    monkeypatch.setattr(bench, "plan_row", row)
    found = bench.bench_scale(BenchConfig(), load_checkpoint(tiny))
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
    assert bench.main([*out, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err)
    assert not list(tmp_path.iterdir())


def test_a_fresh_process_that_fails_says_why(tiny: Path) -> None:
    config = BenchConfig(checkpoint="gone")
    with pytest.raises(UserError, match="fresh process failed.*no checkpoint 'gone'"):
        list(bench.bench_cold(config, load_checkpoint(tiny)))
