"""The command `plan`: its files, and its errors."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from processes import started
from tiny import tiny_checkpoint

from worldmodel.measure.environments import make_env
from worldmodel.measure.goals import save_goal
from worldmodel.measure.outcomes import episode_outcome
from worldmodel.measure.tasks import GoalTask, sample_tasks
from worldmodel.plan import main

PUSHT = "worldmodel/PushT-v0"
MAZE = "worldmodel/Maze-v0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkpoint/, goal.png with its sidecar, alone.png without one, maze.png of a maze."""
    folder = tmp_path_factory.mktemp("plan")
    tiny_checkpoint(folder / "checkpoint")
    for env_id, name in ((PUSHT, "goal.png"), (MAZE, "maze.png")):
        env = make_env(env_id, {})
        save_goal(sample_tasks(env, 1, 0, 25)[0], env, folder / name)
        env.close()
    shutil.copy(folder / "goal.png", folder / "alone.png")
    return folder


def flags(folder: Path, **changed: Any) -> list[str]:
    """Arguments of a small closed loop; None leaves one out."""
    given = {"env": PUSHT, "goal": folder / "goal.png", "checkpoint": folder / "checkpoint"}
    given |= {"agent.samples": 8, "agent.iterations": 1, "steps": 7, **changed}
    pairs = [(f"--{key}", str(value)) for key, value in given.items() if value is not None]
    return [word for pair in pairs for word in pair]


def once(folder: Path, **changed: Any) -> list[str]:
    """Arguments of one plan from an image."""
    return flags(folder, env=None, steps=None, image=folder / "alone.png", **changed)


def test_closed_loop_starts_at_the_goals_start_and_reports(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a" / "b"
    assert main(flags(folder, out=out)) == 0
    output = capsys.readouterr().out
    assert output.count("\n") == 1 and "in 7 steps" in output and str(out / "plan.gif") in output
    report = json.loads((out / "report.json").read_text())
    assert report["env"] == PUSHT and report["steps"] == 7
    actions = np.array(report["actions"])
    assert actions.shape == (7, 2) and (np.abs(actions) <= 0.02).all()
    assert [plan["step"] for plan in report["plans"]] == [0, 5]
    assert report["latent_distance"]["start"] > 0
    with Image.open(out / "plan.gif") as gif:
        assert gif.n_frames == 8 and gif.width >= 512  # type: ignore[attr-defined]
    with Image.open(out / "cost.png") as picture:
        picture.load()

    # The simulator repeats the episode from the start state of the goal file.
    sidecar = json.loads((folder / "goal.json").read_text())
    env = make_env(PUSHT, {})
    world: Any = env.unwrapped
    states = world.physics(np.array(sidecar["start_state"]), actions)
    assert report["outcome"] == episode_outcome(env, list(states), np.array(sidecar["goal_state"]))
    env.close()


@pytest.mark.slow
def test_guardrails_are_kept_drawn_and_reported(folder: Path, tmp_path: Path) -> None:
    """A region far away changes only the picture; a region around the robot stops it."""
    reports = []
    for name, rules in (
        ("free", []),
        ("far", ["no_go:disc=0.05:0.05:0.01", "max_action:0.5"]),
        ("walled", ["no_go:x=0:1,y=0:1"]),
    ):
        given = [word for rule in rules for word in ("--guardrail", rule)]
        assert main([*flags(folder, out=tmp_path / name), *given]) == 0
        reports.append(json.loads((tmp_path / name / "report.json").read_text()))
    free, far, walled = reports
    assert free["actions"] == far["actions"] and np.any(far["actions"])
    assert far["interventions"] == [] and far["stop_reason"] is None
    assert not np.any(walled["actions"]) and walled["interventions"] == list(range(7))
    assert "guardrail" in walled["stop_reason"]
    first = []
    for name in ("free", "far"):
        with Image.open(tmp_path / name / "plan.gif") as gif:
            first.append(np.asarray(gif.convert("RGB")).astype(int)[:256])  # without the chart
    changed = np.argwhere(np.abs(first[0] - first[1]).sum(-1) > 100)
    # The disc, 5 pixels in radius, a tenth of 256 pixels from the left and from below.
    np.testing.assert_allclose(changed.mean(0), (231, 25), atol=2)


@pytest.mark.parametrize("reach", ["each", "any"])
def test_several_goals(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], reach: str
) -> None:
    """The first goal is the start; the other is not reached in one step."""
    env = make_env(PUSHT, {})
    task = sample_tasks(env, 1, 0, 25)[0]
    save_goal(GoalTask(task.start_state, task.start_state, 0), env, tmp_path / "here.png")
    env.close()
    goals = f"{tmp_path / 'here.png'},{folder / 'goal.png'}"
    assert main(flags(folder, goal=goals, reach=reach, steps=1, out=tmp_path / "out")) == 0
    output, errors = capsys.readouterr()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["reach"] == reach and report["goal"] == goals
    assert report["outcome"]["success_at_start"] == (reach == "any")
    assert ("the start already is a success" in errors) == (reach == "any")
    assert output.startswith("goal reached before" if reach == "any" else "goal not reached in 1")
    with_unknown = f"{goals},{folder / 'alone.png'}"
    assert main(flags(folder, goal=with_unknown, reach=reach, steps=1, out=tmp_path / "out")) == 0
    assert ("; on the way to goal 2 of 3;" in capsys.readouterr().out) == (reach == "each")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["outcome"] is None
    assert main(once(folder, goal=goals, reach=reach)) == 0


def test_outside_the_mask_the_goal_is_as_the_start(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Something covers a part of the goal image, and the mask takes it out."""
    with Image.open(folder / "maze.png") as image:
        start = np.array(image)
    with Image.open(folder / "alone.png") as image:
        expected = np.array(image)
    expected[:40, :40] = start[:40, :40]
    covered, mask = expected.copy(), np.full((112, 112), 255, np.uint8)
    covered[:40, :40], mask[:40, :40] = 0, 0
    for name, pixels in (("start", start), ("covered", covered), ("expected", expected)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    plans = []
    for name, given in (("covered", None), ("covered", tmp_path / "mask.png"), ("expected", None)):
        goal, image = tmp_path / f"{name}.png", tmp_path / "start.png"
        assert main(once(folder, goal=goal, goal_mask=given) + ["--image", str(image)]) == 0
        plans.append(json.loads(capsys.readouterr().out))
    for plan in plans:
        del plan["plan_ms"]
    assert plans[0] != plans[1] == plans[2]

    out = tmp_path / "out"
    given = {"goal_mask": tmp_path / "mask.png", "steps": 1, "out": out}
    assert main(flags(folder, goal=folder / "alone.png", **given)) == 0
    assert json.loads((out / "report.json").read_text())["goal_mask"] == str(given["goal_mask"])


def test_a_start_that_is_the_goal_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = make_env(PUSHT, {})
    state = sample_tasks(env, 1, 0, 25)[0].start_state
    save_goal(GoalTask(state, state, 0), env, tmp_path / "goal.png")
    env.close()
    assert main(flags(folder, goal=tmp_path / "goal.png", steps=1, out=tmp_path / "out")) == 0
    captured = capsys.readouterr()
    assert "warning: the start already is a success" in captured.err
    assert captured.out.startswith("goal reached before the first of 1 steps")
    assert main(once(folder, goal=folder / "alone.png")) == 0
    captured = capsys.readouterr()
    assert "warning: the start is near the goal already: their latent distance is 0" in captured.err
    assert json.loads(captured.out)["latent_distance"] == 0


def test_an_episode_may_end_where_the_next_plan_begins(folder: Path, tmp_path: Path) -> None:
    """Two model steps with a context of three frames: the film needs no third frame."""
    given = ["--guardrail", "no_go:disc=0.05:0.05:0.01", "--steps", "10"]
    assert main([*flags(folder, out=tmp_path), *given]) == 0
    assert (tmp_path / "plan.gif").exists()


@pytest.mark.slow
def test_same_seed_same_report_and_without_a_goal_state_no_outcome(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / name
        assert main(flags(folder, goal=folder / "alone.png", seed=seed, out=out)) == 0
        reports.append(json.loads((out / "report.json").read_text()))
    assert reports[0]["actions"] == reports[1]["actions"] != reports[2]["actions"]
    assert reports[0]["outcome"] is None
    assert "latent distance" in capsys.readouterr().out


def test_explain_shows_every_iteration(folder: Path, tmp_path: Path) -> None:
    assert main(flags(folder, explain="true", **{"agent.iterations": 3}, out=tmp_path)) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    with Image.open(tmp_path / "explain.gif") as gif:
        assert gif.n_frames == 3 * len(report["plans"])  # type: ignore[attr-defined]


@pytest.mark.slow
def test_ctrl_c_leaves_what_was_done_so_far(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from worldmodel import plan; from worldmodel.cli import progress_bar; "
        "progress_bar.SECONDS_BETWEEN_LINES = 0; "
        "sys.exit(plan.main(sys.argv[1:]))"
    )
    arguments = flags(folder, steps=1_000_000, out=tmp_path / "out")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started([sys.executable, "-c", code, *arguments], **pipes) as process:
        assert process.stderr is not None
        before = ""
        while "acting" not in before and process.poll() is None:  # printed after every step
            before = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "goal" in output and "interrupted" in errors
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["cost.png", "plan.gif", "plan.mp4", "report.json"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert 1 <= report["steps"] < 1_000_000
    with Image.open(tmp_path / "out" / "plan.gif") as gif:
        assert gif.n_frames == min(300, report["steps"] + 1)  # type: ignore[attr-defined]


def test_one_plan_is_json_on_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = []
    for proprio in (None, "0.1,0.2,0,0", "0.1, 0.2, 0, 0", "0.4,0.2,0,0"):
        assert main(once(folder, **{"agent.horizon": 4}, proprio=proprio)) == 0
        plans.append(json.loads(capsys.readouterr().out))
    actions = np.array(plans[0]["actions"])
    assert actions.shape == (4 * 5, 2) and (np.abs(actions) <= 0.02).all()
    assert plans[1]["actions"] == plans[2]["actions"]
    assert plans[1]["cost"] != plans[3]["cost"]  # proprio matters


def bad(folder: Path, tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    """Everything that can be wrong, and a part of the expected message."""
    clear, text = tmp_path / "clear.png", tmp_path / "text.png"
    Image.new("RGBA", (112, 112)).save(clear)
    text.write_text("hello")
    cut = tmp_path / "cut"
    shutil.copytree(folder / "checkpoint", cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    config = tmp_path / "plan.yaml"
    config.write_text("sampels: 3\n")
    return {
        "missing goal": (flags(folder, goal=tmp_path / "no.png"), "no image at"),
        "no such frame": (flags(folder, goal=f"{folder / 'goal.png'}@9s"), "has no frame 9s"),
        "one of two is missing": (
            flags(folder, goal=f"{folder / 'goal.png'},no.png"),
            "no image at no",
        ),
        "no mask": (flags(folder, goal_mask=tmp_path / "no.png"), "no image at"),
        "an empty name": (flags(folder, goal=f"{folder / 'goal.png'},"), "has an empty name"),
        "reach": (flags(folder, reach="all"), "reach is 'all': choose any"),
        "not an image": (flags(folder, goal=text), "not an image"),
        "transparent": (flags(folder, goal=clear), "transparent in places"),
        "another env": (flags(folder, env=MAZE, goal=folder / "maze.png"), "for worldmodel/PushT"),
        "goal of another env": (flags(folder, goal=folder / "maze.png"), "is a goal of"),
        "no such env": (
            flags(folder, env="worldmodel/Push-v0", goal=folder / "alone.png"),
            "no env",
        ),
        "no checkpoint": (flags(folder, checkpoint=tmp_path / "none"), "does not exist"),
        "truncated": (flags(folder, checkpoint=cut), "is damaged"),
        "NaN proprio": (once(folder, proprio="nan,0,0,0"), "finite"),
        "short proprio": (once(folder, proprio="0,0"), "4 numbers"),
        "wordy proprio": (once(folder, proprio="left"), "with commas"),
        "unknown flag": (flags(folder, sampels=3), "did you mean '--agent.samples'"),
        "unknown key": ([*flags(folder), "--config", str(config)], "did you mean 'agent.samples'"),
        "unknown planner": (flags(folder, planner="cmes"), "unknown planner"),
        "unwritable": (flags(folder, out=text / "out"), "cannot write to"),
        "both modes": (flags(folder, image=clear), "either --env"),
        "steps": (flags(folder, steps=0), "at least 1"),
    }


@pytest.mark.slow
def test_bad_input_is_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for what, (arguments, message) in bad(folder, tmp_path).items():
        if "--out" not in arguments and "--env" in arguments:
            arguments = [*arguments, "--out", str(out)]
        assert main(arguments) == 2, what
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, (
            what,
            captured.err,
        )
        assert message in captured.err, (what, captured.err)
        assert captured.out == "", what
        assert not out.exists(), what


def test_a_sidecar_that_does_not_fit_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = make_env(PUSHT, {})
    save_goal(GoalTask(np.zeros(3), np.full(10, 0.2), 0), env, tmp_path / "goal.png")
    env.close()
    assert main(flags(folder, goal=tmp_path / "goal.png", out=tmp_path / "out")) == 2
    assert "goal.json does not fit" in capsys.readouterr().err
    goals = f"{folder / 'goal.png'},{tmp_path / 'goal.png'}"
    for state, message in ((np.zeros(3), "shape (3,)"), (np.zeros((2, 5)), "shape (2, 5)")):
        content = json.loads((tmp_path / "goal.json").read_text()) | {"goal_state": state.tolist()}
        (tmp_path / "goal.json").write_text(json.dumps(content))
        assert main(flags(folder, goal=goals, out=tmp_path / "out")) == 2
        assert f"goal.json does not fit {PUSHT}: its goal_state has {message}" in (
            capsys.readouterr().err
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["truncated"])
def test_errors_of_a_real_process(folder: Path, tmp_path: Path, what: str) -> None:
    arguments, message = bad(folder, tmp_path)[what]
    command = [sys.executable, "-m", "worldmodel.plan", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr and done.stderr.count("\n") == 1
