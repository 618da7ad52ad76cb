"""Tasks and the evaluation protocol: held out, unsolved, judged from outside, reproducible."""

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
import torch
from PIL import Image
from processes import started
from tiny import tiny_checkpoint

from planners import Budget
from worldmodel import evaluate as evaluate_verb
from worldmodel import goal, load
from worldmodel.agent import Agent
from worldmodel.control.config import AgentConfig, make_planner
from worldmodel.data.collection import episode_seed
from worldmodel.errors import UserError
from worldmodel.measure import gallery as gallery
from worldmodel.measure import outcomes as outcome
from worldmodel.measure import tasks
from worldmodel.measure.ceiling import (
    CeilingConfig,
    SimulatorPlanner,
    rank_correlation,
    run_ceiling,
)
from worldmodel.measure.environments import make_env
from worldmodel.measure.evaluation import EvaluateConfig, evaluate
from worldmodel.measure.evaluation_table import evaluation_table
from worldmodel.measure.film import BAR, CHART, SIDE
from worldmodel.measure.goals import load_goal, save_goal
from worldmodel.measure.rollouts import RolloutLog, run_agent, run_random
from worldmodel.measure.tasks import GoalTask, sample_tasks
from worldmodel.models.checkpoint import load_checkpoint

PUSHT, MAZE = "worldmodel/PushT-v0", "worldmodel/Maze-v0"
CHIPS = "worldmodel/GranularChips-v0"


@pytest.fixture(scope="module")
def pusht() -> Any:
    env = make_env(PUSHT, {})
    yield env
    env.close()


@pytest.fixture(scope="module")
def maze() -> Any:
    env = make_env(MAZE, {"layout": "random"})
    yield env
    env.close()


@pytest.fixture(scope="module")
def chips() -> Any:
    env = make_env(CHIPS, {"chips": 3})
    yield env
    env.close()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "pusht")


# ---------------------------------------------------------------------------------------- tasks
@pytest.mark.parametrize("name", ["pusht", "maze"])
def test_tasks_are_held_out_unsolved_and_repeaevaluation_table(
    name: str, request: pytest.FixtureRequest
) -> None:
    env = request.getfixturevalue(name)
    some, same = (sample_tasks(env, 6, 3, 25) for _ in range(2))
    other = sample_tasks(env, 6, 4, 25)
    for a, b, c in zip(some, same, other, strict=True):
        np.testing.assert_array_equal(a.start_state, b.start_state)
        np.testing.assert_array_equal(a.goal_state, b.goal_state)
        assert (a.start_state != c.start_state).any()
        assert not env.unwrapped.success(a.start_state, a.goal_state)
    recorded = {episode_seed(seed, index) for seed in range(5) for index in range(100)}
    assert not recorded & {task.env_seed for task in [*some, *other]}
    assert min(task.env_seed for task in some) > max(recorded)
    assert len({task.env_seed for task in [*some, *other]}) == 12
    fewer = sample_tasks(env, 3, 3, 25)  # the first ones of many are those of a few
    assert [task.env_seed for task in fewer] == [task.env_seed for task in some[:3]]


def test_pusht_goals_lie_within_reach(pusht: Any) -> None:
    for offset, farthest in ((5, 5 * 0.03), (25, 25 * 0.03)):
        moved = [
            np.linalg.norm(task.goal_state[:2] - task.start_state[:2])
            for task in sample_tasks(pusht, 5, 0, offset)
        ]
        assert 0.01 < max(moved) < farthest


def test_impossible_tasks_are_refused(pusht: Any) -> None:
    with pytest.raises(UserError, match="goal_offset is 0"):
        sample_tasks(pusht, 1, 0, 0)
    with pytest.raises(UserError, match="cannot make 0 tasks"):
        sample_tasks(pusht, 0, 0, 25)
    with pytest.raises(UserError, match="no environment"):
        make_env("worldmodel/PushTee-v0", {})
    with pytest.raises(UserError, match="no environment 'nowhere:Maze-v0'"):
        make_env("nowhere:Maze-v0", {})
    with pytest.raises(UserError, match="cannot make .*layout is 'V'"):
        make_env("envs:worldmodel/Maze-v0", {"layout": "V"})
    with pytest.raises(UserError, match="CartPole-v1 has no envs.task.Task"):
        make_env("CartPole-v1", {})


def test_goal_files_round_trip(maze: Any, tmp_path: Path) -> None:
    task = sample_tasks(maze, 1, 0, 25)[0]
    save_goal(task, maze, tmp_path / "goal.png")
    pixels, sidecar = load_goal(tmp_path / "goal.png", 112)
    np.testing.assert_array_equal(pixels, maze.unwrapped.render_state(task.goal_state))
    assert sidecar is not None and sidecar.env == MAZE
    assert sidecar.env_kwargs == {"layout": "random"}
    np.testing.assert_array_equal(sidecar.start_state, task.start_state)
    np.testing.assert_array_equal(sidecar.goal_state, task.goal_state)
    (tmp_path / "goal.json").unlink()
    assert load_goal(tmp_path / "goal.png", 112)[1] is None


@pytest.mark.parametrize(
    ("mode", "size", "message"),
    [
        ("RGBA", (112, 112), "mode RGBA .4 channel"),
        ("L", (112, 112), "mode L .1 channel"),
        ("RGB", (112, 96), "112x96 pixels"),
        ("RGB", (64, 64), "64x64 pixels: this model takes 112x112"),
    ],
)
def test_unusable_goal_images_are_refused(
    tmp_path: Path, mode: str, size: tuple[int, int], message: str
) -> None:
    Image.new(mode, size).save(tmp_path / "goal.png")
    with pytest.raises(UserError, match=message):
        load_goal(tmp_path / "goal.png", 112)


def test_broken_goal_files_are_refused(pusht: Any, tmp_path: Path) -> None:
    path = tmp_path / "goal.png"
    with pytest.raises(UserError, match="no image at"):
        load_goal(path, 112)
    path.write_text("not a picture")
    with pytest.raises(UserError, match="not an image"):
        load_goal(path, 112)
    save_goal(sample_tasks(pusht, 1, 0, 25)[0], pusht, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not an image"):
        load_goal(path, 112)
    path.write_bytes(whole)
    for text in ("{", "[]", '{"env": "x"}', '{"env":"x","env_kwargs":{},"start_state":[NaN]}'):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(UserError, match="no description of a goal"):
            load_goal(path, 112)
    with pytest.raises(UserError, match="should end in .png"):
        save_goal(sample_tasks(pusht, 1, 0, 25)[0], pusht, tmp_path / "goal.jpg")


def test_tasks_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--env", PUSHT, "--seed", "3", "--out", str(tmp_path / "g.png")]
    assert goal.main(arguments) == 0
    assert load_goal(tmp_path / "g.png", 112)[1] is not None
    assert goal.main([*arguments, "--goal_ofset", "3"]) == 2
    assert "did you mean '--goal_offset'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------ the judge
def test_judge_tells_any_time_from_the_end_and_the_block_from_both(pusht: Any) -> None:
    goal = np.array([0.1, 0.1, 0.3, 0.3, 0.5, 0, 0, 0, 0, 0])
    away, pusher_away = goal.copy(), goal.copy()
    away[2] += 0.2
    pusher_away[0] += 0.2
    paths = [
        np.stack([away, goal, away]),  # there and away again
        np.stack([away, away, goal]),
        np.stack([goal, away, away]),  # only at the start, which does not count
        np.stack([away, away, pusher_away]),
    ]
    outcomes = outcome.measure_outcomes(pusht, paths, [GoalTask(away, goal, 0)] * 4)
    assert outcomes.success_any.tolist() == [True, True, False, False]
    assert outcomes.success_final.tolist() == [False, True, False, False]
    assert outcomes.metrics["block_success_any"].tolist() == [True, True, False, True]
    assert outcomes.metrics["block_success_final"].tolist() == [False, True, False, True]


def test_judged_distance_is_one_where_success_ends(pusht: Any, maze: Any) -> None:
    goal = np.array([0.1, 0.1, 0.3, 0.3, np.pi - 0.01, 0, 0, 0, 0, 0])
    at = np.stack([goal] * 3)
    at[1, 0] += 0.02
    at[2, 4] = -np.pi - 0.01 + np.deg2rad(20)  # across the seam of the angle
    distance = outcome.task_distance(pusht, at, goal)
    np.testing.assert_allclose(distance, [0, 1, 1], atol=1e-6)
    goal = np.array([0.4, 0.4, 0, 0, 1])
    there = goal + [0.125, 0, 5, 5, 0]
    assert outcome.task_distance(maze, there, goal) == pytest.approx(1)


def test_chips_are_judged_by_their_distance_before_and_after(chips: Any) -> None:
    goal = np.array([0.2, 0.2, 0.1, 0.1, 0.2, 0.1, 0.3, 0.1])
    away, apart = goal.copy(), goal.copy()
    away[[3, 5, 7]] += 0.036  # each is two chip widths away
    apart[:2] += 0.1  # where the blade is does not matter
    paths = [np.stack([away, apart, away]), np.stack([away, away, apart])]
    outcomes = outcome.measure_outcomes(chips, paths, [GoalTask(away, goal, 0)] * 2)
    assert outcomes.success_any.tolist() == [True, True]
    assert outcomes.success_final.tolist() == [False, True]
    np.testing.assert_allclose(outcomes.metrics["chamfer_start"], [4, 4])
    np.testing.assert_allclose(outcomes.metrics["chamfer_final"], [4, 0])
    np.testing.assert_allclose(outcome.task_distance(chips, paths[0], goal), [16, 0, 16])


def test_goals_of_chips_are_those_that_resetting_draws(chips: Any) -> None:
    some = sample_tasks(chips, 3, 0, 25)
    for task in some:
        _, info = chips.reset(seed=task.env_seed)
        np.testing.assert_array_equal(info["goal_state"], task.goal_state)
        assert chips.unwrapped.chamfer(task.start_state, task.goal_state) > 1


# --------------------------------------------------------------------------------- the protocol
FEW = AgentConfig(samples=8, iterations=1)


def guarded(*rules: str) -> AgentConfig:
    return dataclasses.replace(FEW, guardrails=rules)


def run(checkpoint: Path, **options: Any) -> dict[str, Any]:
    few = dict(episodes=3, batch=2, budget_steps=10, timed_plans=2, random_episodes=2)
    few |= dict(agent=FEW, ceiling=CeilingConfig(episodes=0))
    return evaluate(EvaluateConfig(PUSHT, checkpoint=str(checkpoint), **{**few, **options}))


def test_the_result_has_the_protocols_keys_and_repeats(checkpoint: Path) -> None:
    one, two = (run(checkpoint, goal_offset=5, random_episodes=None) for _ in range(2))
    for result in (one, two):  # how fast it was is the one thing that differs
        for key in ("plan_ms", "encode_ms"):
            taken = result.pop(key)
            assert 0 < taken["p50"] <= taken["p99"]
    assert one == two
    assert json.loads(json.dumps(one, allow_nan=False)) == one
    for key in ("success_any", "success_final", "random"):
        assert 0 <= one[key]["low"] <= one[key]["rate"] <= one[key]["high"] <= 1
    assert one["ceiling"] is None and one["goal_offset"] == 5 and one["episodes"] == 3
    # (samples, doing nothing, the last check) x horizon
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
def test_guardrails_are_judged_by_true_states(checkpoint: Path) -> None:
    """A region that nobody comes near, one that all are in, and one that no plan may be sure of."""
    far = run(checkpoint, goal_offset=5, agent=guarded("no_go:disc=9:9:1", "max_action:0.01"))
    rails = far["guardrails"]
    assert rails["violation_per_episode"]["rate"] == rails["stop_rate"]["mean"] == 0
    assert set(rails["worst_depth"]) == {"no_go:disc=9:9:1"}
    assert rails["worst_depth"]["no_go:disc=9:9:1"] == pytest.approx(-11.5, abs=0.5)
    assert rails["safe_success"] == far["success_any"]
    assert "episodes with a violation | 0.0 %" in evaluation_table(far)
    with pytest.raises(UserError, match="only 0 of 3 tasks .* suit the guardrails"):
        run(checkpoint, goal_offset=5, agent=guarded("workspace:x=-2:-1"))
    # Without a plan that keeps the margin, the robot stands still, and says so.
    still = run(checkpoint, goal_offset=5, agent=guarded("workspace:x=-1:2,margin=1.4"))
    still_rates = [still["guardrails"][f"{kind}_rate"]["mean"] for kind in ("stop", "intervention")]
    assert still_rates == [1, 1]
    assert still["guardrails"]["violation_per_step"]["rate"] == 0
    assert still["settings"]["agent"]["guardrails"] == ["workspace:x=-1:2,margin=1.4"]
    # The same tasks without it: what it costs.
    free = run(
        checkpoint, goal_offset=5, agent=guarded("workspace:x=-1:2,margin=1.4"), unguarded=True
    )
    assert free["guardrails"]["stop_rate"]["mean"] == 0
    assert "planned without them" in evaluation_table(free)


def test_every_episode_starts_at_its_task_and_uses_the_whole_budget(
    checkpoint: Path, pusht: Any
) -> None:
    env = make_env(PUSHT, {})
    agent = load(checkpoint, samples=4, iterations=1)
    some = sample_tasks(pusht, 3, 0, 5)
    paths = run_agent(agent, [pusht, env], some, 10, seed=1)
    env.close()
    assert [path.shape for path in paths] == [(11, 10)] * 3
    for path, task in zip(paths, some, strict=True):
        np.testing.assert_allclose(path[0], task.start_state, atol=1e-9)
        assert (path[-1][:2] != path[0][:2]).any()


def test_the_ceiling_reaches_what_can_be_reached(checkpoint: Path, pusht: Any) -> None:
    agent: Any = Agent(
        *load_checkpoint(checkpoint),
        planner=make_planner("cem"),
        config=AgentConfig(horizon=3),
    )
    some = sample_tasks(pusht, 2, 0, 8)
    planner, budget = make_planner("cem"), Budget(24, 2)
    paths = run_ceiling(agent, planner, budget, pusht, some, 15, 0)
    assert all(path.shape == (16, 10) for path in paths)
    for path, task in zip(paths, some, strict=True):
        apart = outcome.task_distance(pusht, path, task.goal_state)
        assert apart.min() < 0.5 * apart[0]


def test_an_agent_on_the_simulator_sees_what_its_plans_would_show(
    checkpoint: Path, pusht: Any
) -> None:
    parts = load_checkpoint(checkpoint)
    config = AgentConfig(horizon=2, samples=3, iterations=1)
    agent = Agent(*parts, make_planner("cem"), config)
    agent.planner = SimulatorPlanner(agent.planner, agent, pusht)
    task = sample_tasks(pusht, 1, 0, 8)[0]
    obs, _ = tasks.begin(pusht, task, ())
    agent.reset(tasks.render(pusht, task.goal_state))
    agent.act(obs)
    plan = agent.last_plan
    assert plan is not None
    path = pusht.unwrapped.physics(task.start_state, agent.sequence(plan.actions)[0].numpy())
    for step, z in enumerate(plan.trajectory.z[0], 1):
        pixels = tasks.render(pusht, path[step * agent.frameskip])
        torch.testing.assert_close(z, agent.inference.encode(pixels[None])[0], atol=0.02, rtol=0.02)
    np.testing.assert_allclose(plan.trajectory.proprio[0, 0, :2], path[agent.frameskip, :2])


def test_a_trained_model_ranks_plans_as_the_simulator_does(checkpoint: Path, pusht: Any) -> None:
    some = sample_tasks(pusht, 4, 0, 25)

    def alike(name: str | Path) -> np.ndarray:
        return rank_correlation(load(name), pusht, some, 0)

    trained, untrained = alike("pusht"), alike(checkpoint)
    assert trained.shape == (4,) and np.abs(untrained).max() < 0.9
    assert trained.mean() > 0.5 > untrained.mean() + 0.2


def test_seeds_share_the_episodes_each_with_its_own_tasks(checkpoint: Path) -> None:
    both = run(checkpoint, episodes=4, seeds=2, goal_offset=5)
    for at, seed in enumerate((0, 1)):
        one = run(checkpoint, episodes=2, seed=seed, goal_offset=5)
        for name in ("success_any", "success_final"):
            assert both["per_seed"][name][at] == one[name]["rate"]
    assert both["episodes"] == 4
    assert both["success_any"]["rate"] == np.mean(both["per_seed"]["success_any"])
    assert "2 seeds (0: " in evaluation_table(both)


def test_a_variation_reaches_the_camera_the_goal_image_and_the_floor(
    pusht: Any,
) -> None:
    class Spy:
        """Sees what the agent sees, and acts not."""

        stop_reasons, intervened, last_plan = ("rest",), torch.tensor([True]), None
        alarmed = torch.tensor([False])

        def reset(self, goals: Any, seed: int, steps: int) -> None:
            self.goals, self.steps = goals, steps

        def act(self, obs: Any) -> Any:
            self.seen = obs["pixels"]
            return np.zeros((len(self.seen), 2), np.float32)

    some, spy = sample_tasks(pusht, 1, 0, 5), Spy()
    corner = (0, slice(0, 8), slice(0, 8))
    run_agent(spy, [pusht], some, 2)  # type: ignore[arg-type]
    usual = spy.seen[corner]
    watch = RolloutLog()
    run_agent(spy, [pusht], some, 2, 0, ("background",), watch)  # type: ignore[arg-type]
    assert spy.steps == 2
    np.testing.assert_array_equal(watch.stopped + watch.intervened, np.ones((2, 2)))
    assert (spy.seen[corner] != usual).all()
    np.testing.assert_array_equal(spy.goals[corner], spy.seen[corner])

    def floor(variation: Any) -> Any:
        tasks = sample_tasks(pusht, 6, 0, 25)
        return np.stack(run_random(pusht, tasks, 50, 0, variation))

    assert (floor(()) == floor(("light",))).all()
    assert (floor(()) != floor(("friction",))).any()


def test_the_gallery_shows_the_worst_first(pusht: Any, tmp_path: Path) -> None:
    goal = np.array([0.1, 0.1, 0.25, 0.25, 0, 0, 0, 0, 0, 0.0])
    near, far = goal.copy(), goal.copy()
    near[2] += 0.03
    far[4] = 2.0
    task = GoalTask(far, goal, 0)
    paths = [np.stack(path) for path in ([far, goal], [far, far], [near, near], [far, goal, near])]
    paths = [np.concatenate([path, path[-1:]])[:3] for path in paths]
    outcomes = outcome.measure_outcomes(pusht, paths, [task] * 4)
    assert gallery.worst(pusht, paths, [task] * 4, outcomes) == [1, 2, 3, 0]
    assert gallery.worst(pusht, paths, [task] * 4, outcomes, 2) == [1, 2]
    gallery.save_failures(tmp_path / "bad", pusht, paths, [task] * 4, outcomes)
    names = sorted(path.name for path in (tmp_path / "bad").iterdir())
    films = [f"0{place}.{kind}" for place in (1, 2, 3, 4) for kind in ("gif", "mp4")]
    assert names == [*films, "README.md"]
    rows = (tmp_path / "bad" / "README.md").read_text().splitlines()[4:]
    assert "| 1 | 0 | never | 0.0 > 0.0 | 0.0 > 0.0 | 114.6 > 114.6 |" in rows[0]
    assert "| at step 1 | 0.0 > 0.0 | 0.0 > 30.0 |" in rows[2]
    assert "| at step 1, to the end |" in rows[3]
    with Image.open(tmp_path / "bad" / "01.gif") as animation:
        assert animation.n_frames == 3  # type: ignore[attr-defined]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        gallery.save_failures(tmp_path / "file" / "x", pusht, paths, [task] * 4, outcomes)


@pytest.mark.slow
def test_the_gallery_of_an_evaluation_shows_what_was_imagined(tmp_path: Path) -> None:
    rule = "no_go:x=0:0.02,y=0:0.02"
    plain = ["--env", PUSHT, "--episodes", "2", "--batch", "2", "--budget_steps", "10"]
    plain += [
        "--agent.samples",
        "8",
        "--agent.iterations",
        "1",
        "--random_episodes",
        "0",
        "--timed_plans",
        "1",
    ]
    plain += ["--ceiling.episodes", "0", "--failures", str(tmp_path), "--guardrail", rule]
    assert evaluate_verb.main(plain) == 0
    with Image.open(tmp_path / "01.gif") as animation:
        last = animation.convert("RGB")
    # Below reality: five imagined frames, then the chart with distance and clearance.
    assert last.height == SIDE + BAR + 2 * SIDE // 5 + 20 + CHART
    strip = last.crop((0, SIDE + BAR + 20, 2 * SIDE, SIDE + BAR + 100))
    block = [colour for _, colour in strip.getcolors(1 << 16) if colour[2] > colour[0] + 30]
    assert block  # the T is blue


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
    assert said.strip() == "interrupted"
    assert list(tmp_path.iterdir()) == []
