"""The protocol: keys of the result, floor, guardrails, time, errors."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import started

from worldmodel import evaluate as evaluate_verb
from worldmodel.control.config import AgentConfig
from worldmodel.errors import UserError
from worldmodel.measure.ceiling import CeilingConfig
from worldmodel.measure.evaluation import EvaluateConfig, evaluate
from worldmodel.measure.evaluation_table import evaluation_table

PUSHT = "worldmodel/PushT-v0"
MAZE = "worldmodel/Maze-v0"


FEW = AgentConfig(samples=8, iterations=1)


def guarded(*rules: str) -> AgentConfig:
    return dataclasses.replace(FEW, guardrails=rules)


def run(checkpoint: Path, **options: Any) -> dict[str, Any]:
    few = dict(episodes=3, batch=2, budget_steps=10, timed_plans=2, random_episodes=2)
    few |= dict(agent=FEW, ceiling=CeilingConfig(episodes=0))
    return evaluate(EvaluateConfig(PUSHT, checkpoint=str(checkpoint), **{**few, **options}))


def test_the_result_has_the_protocols_keys_and_repeats(checkpoint: Path) -> None:
    one, two = (run(checkpoint, goal_offset=5, random_episodes=None) for _ in range(2))
    for result in (one, two):  # only times differ
        for key in ("plan_ms", "encode_ms"):
            taken = result.pop(key)
            assert 0 < taken["p50"] <= taken["p99"]
    assert one == two
    assert json.loads(json.dumps(one, allow_nan=False)) == one
    for key in ("success_any", "success_final", "random"):
        assert 0 <= one[key]["low"] <= one[key]["rate"] <= one[key]["high"] <= 1
    assert one["ceiling"] is None and one["goal_offset"] == 5 and one["episodes"] == 3
    # (samples, hold, final check) x horizon
    assert one["model_calls_per_plan"] == (8 + 1 + 1) * 3
    assert one["env_metrics"]["block_success_any"]["rate"] >= one["success_any"]["rate"]


def test_decisions_are_timed_while_acting(checkpoint: Path) -> None:
    options: dict[str, Any] = dict(batch=1, goal_offset=5, random_episodes=0, episodes=2)
    timed = AgentConfig(samples=8, budget_ms=5000.0)
    result = run(checkpoint, agent=timed, **options)
    made = result["decisions"]
    assert made["count"] == 2 * 10 / 5  # one for each model step
    assert 0 < made["ms"]["p50"] <= made["ms"]["p99"] <= made["ms"]["max"]
    assert made["model_calls"]["max"] > (8 + 1 + 1) * 3
    for words in ("| cem 8, 5000 ms |", "All 4 decisions"):
        assert words in evaluation_table(result)
    assert run(checkpoint, **{**options, "batch": 2})["decisions"] is None
    with pytest.raises(UserError, match="budget_ms is 30.0, but 2 episodes"):
        run(checkpoint, agent=AgentConfig(budget_ms=30.0))


@pytest.mark.slow
def test_guardrails_are_measured_on_true_states(checkpoint: Path) -> None:
    """A region far from all episodes, one around all of them, and one that no plan satisfies."""
    far = run(checkpoint, goal_offset=5, agent=guarded("no_go:disc=9:9:1", "max_action:0.01"))
    rails = far["guardrails"]
    assert rails["violation_per_episode"]["rate"] == rails["stop_rate"]["mean"] == 0
    assert set(rails["worst_depth"]) == {"no_go:disc=9:9:1"}
    assert rails["worst_depth"]["no_go:disc=9:9:1"] == pytest.approx(-11.5, abs=0.5)
    assert rails["safe_success"] == far["success_any"]
    assert "episodes with a violation | 0.0 %" in evaluation_table(far)
    with pytest.raises(UserError, match="only 0 of 3 tasks .* suit the guardrails"):
        run(checkpoint, goal_offset=5, agent=guarded("workspace:x=-2:-1"))
    # Without a feasible plan, the robot holds still in every step.
    still = run(checkpoint, goal_offset=5, agent=guarded("workspace:x=-1:2,margin=1.4"))
    still_rates = [still["guardrails"][f"{kind}_rate"]["mean"] for kind in ("stop", "intervention")]
    assert still_rates == [1, 1]
    assert still["guardrails"]["violation_per_step"]["rate"] == 0
    assert still["settings"]["agent"]["guardrails"] == ["workspace:x=-1:2,margin=1.4"]
    # The same tasks, planned without the rule.
    free = run(
        checkpoint, goal_offset=5, agent=guarded("workspace:x=-1:2,margin=1.4"), unguarded=True
    )
    assert free["guardrails"]["stop_rate"]["mean"] == 0
    assert "planned without them" in evaluation_table(free)


@pytest.mark.slow
def test_seeds_share_the_episodes_each_with_its_own_tasks(checkpoint: Path) -> None:
    both = run(checkpoint, episodes=4, seeds=2, goal_offset=5)
    for at, seed in enumerate((0, 1)):
        one = run(checkpoint, episodes=2, seed=seed, goal_offset=5)
        for name in ("success_any", "success_final"):
            assert both["per_seed"][name][at] == one[name]["rate"]
    assert both["episodes"] == 4
    assert both["success_any"]["rate"] == np.mean(both["per_seed"]["success_any"])
    assert "2 seeds (0: " in evaluation_table(both)


def test_wrong_checkpoints_and_settings_are_refused(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    common = ["--checkpoint", str(checkpoint), "--episodes", "2", "--ceiling.episodes", "0"]
    for arguments, message in (
        (["--env", MAZE, *common], "is for worldmodel/PushT-v0, not for worldmodel/Maze-v0"),
        (["--env", PUSHT, *common, "--planner", "cma"], "did you mean 'cmaes'"),
        (["--env", PUSHT, *common, "--episode", "3"], "did you mean '--episodes'"),
        (["--env", PUSHT, *common, "--ceiling.episodes", "3"], "must be 0 to 2"),
        (["--env", PUSHT, *common, "--out", str(tmp_path / "no" / "r.json")], "no folder"),
        (["--env", PUSHT, *common, "--agent.execute", "16"], "execute is 16"),
        (["--env", PUSHT, *common, "--planner.bet", "1"], "did you mean 'beta'"),
        (["--env", PUSHT, *common, "--seeds", "3"], "2 episodes cannot be shared by 3 seeds"),
        (["--env", PUSHT, *common, "--variation", "colour"], "no variation 'colour'"),
    ):
        assert evaluate_verb.main(arguments) == 2
        said = capsys.readouterr().err
        assert message in said and said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_ends_in_130_and_leaves_no_file(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    code = (
        "import sys; from worldmodel import evaluate; print('ready', flush=True); "
        "sys.exit(evaluate.main(sys.argv[1:]))"
    )
    flags = f"--env {PUSHT} --checkpoint {checkpoint} --timed_plans 100000 --out {out}".split()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started([sys.executable, "-c", code, *flags], **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "interrupted"
    assert list(tmp_path.iterdir()) == []
