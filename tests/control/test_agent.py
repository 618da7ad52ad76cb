"""The agent: it reaches goals when its model is right, refuses bad input, and is reproducible."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from tiny import tiny_checkpoint
from torch import Tensor, nn

import planners
import worldmodel
from worldmodel.agent import Agent, Stop
from worldmodel.control.config import AgentConfig
from worldmodel.control.guardrails import parse_rules
from worldmodel.control.objective import ObjectiveConfig
from worldmodel.control.senses import Senses
from worldmodel.control.surprise import UsualErrors
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import (
    CheckpointInfo,
    load_checkpoint,
)
from worldmodel.models.config import DataSpec, ModelConfig
from worldmodel.models.world_model import Imagined

STARTS = np.array([[0.35, 0.9, 0, 0, 0], [0.8, 0.3, 0, 0, 0]])
GOALS = np.array([[0.85, 0.85, 0, 0, 0], [0.4, 0.35, 0, 0, 0]])


class BallFinder(nn.Module):
    """An encoder for the U maze that is easy to understand: one token, x and y of the ball (m)."""

    hash, name, image_size, num_tokens, dim = "ball", "ball", 112, 1, 2

    def encode(self, pixels: Tensor) -> Tensor:
        green = (pixels[..., 1].float() - pixels[..., 0].float() > 60).float()
        where = torch.arange(pixels.shape[1]) + 0.5
        total = green.sum((1, 2))
        x = (green.sum(1) * where).sum(1) / total / 112 * 1.25
        y = 1.25 - (green.sum(2) * where).sum(1) / total / 112 * 1.25
        return torch.stack([x, y], -1)[:, None]


class BallModel(nn.Module):
    """Its exact counterpart: the ball follows the commanded velocity for 0.1 s an action."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.config = ModelConfig(tokens=1, dim=2, context=3, frameskip=5)
        self.spec = DataSpec(1, 2, (-0.75,) * 2, (0.75,) * 2, (0.6,) * 4, (0.3,) * 4)
        self.action_low, self.action_high = torch.full((2,), -0.75), torch.full((2,), 0.75)
        self.proprio_std = torch.full((4,), 0.3)
        self.broken = broken
        self.seen: dict[str, Tensor] = {}

    def encode(self, tokens: Tensor) -> Tensor:
        return tokens

    def distance(self, z: Tensor, other: Tensor) -> Tensor:
        return (z - other).square().mean((-2, -1))

    def read_proprio(self, z: Tensor) -> Tensor:
        return torch.cat([z[..., 0, :], torch.zeros_like(z[..., 0, :])], -1)

    def rollout(self, z: Tensor, proprio: Tensor, past: Tensor, actions: Tensor) -> Imagined:
        self.seen = {"z": z, "proprio": proprio, "past": past}
        moves = 0.1 * actions.unflatten(-1, (5, 2)).sum(-2).cumsum(-2)  # [E, S, T, 2]
        position = z[:, None, None, -1, 0] + moves
        if self.broken:
            position = position * float("nan")
        ahead = torch.cat([position, torch.zeros_like(position)], -1)
        return Imagined(position[..., None, :], ahead)


def ball_agent(
    planner: planners.Planner | None = None, broken: bool = False, hold: Any = None, **config: Any
) -> Agent:
    model: Any = BallModel(broken)
    encoder: Any = BallFinder()
    info = CheckpointInfo(
        "worldmodel/Maze-v0",
        {},
        112,
        "ball",
        "ball",
        model.config,
        model.spec,
        readable=(1.0, 0.75, 0.5, 0.1),
        horizon=3,
        hold=None if hold == "undeclared" else (0.0, 0.0),
        samples=40,
        iterations=2,
    )
    weights = ("near", "proprio_weight", "time_weight", "stay_weight")
    objective = {name: config.pop(name) for name in weights if name in config}
    objective["name"] = config.pop("objective", "arrival")
    settings = AgentConfig(
        **{"samples": 64, "iterations": 3, "objective": ObjectiveConfig(**objective), **config}
    )
    given = None if hold == "undeclared" else hold
    return Agent(model, encoder, info, planner or planners.make("cem"), settings, given)


@pytest.fixture(scope="module")
def maze() -> Any:
    env = gym.make("envs:worldmodel/Maze-v0", max_episode_steps=10**6)
    yield env
    env.close()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "maze", "worldmodel/Maze-v0")


def start(maze: Any, which: int = 0) -> tuple[dict[str, Any], np.ndarray]:
    """The first observation of a task, and the goal's image."""
    obs, _ = maze.reset(options={"state": STARTS[which], "goal_state": GOALS[which]})
    return obs, maze.unwrapped.render_state(GOALS[which])


# ----------------------------------------------------------------------------------- behaviour
@pytest.mark.parametrize("name", sorted(planners.PLANNERS))
def test_reaches_the_goal_when_the_model_is_right(maze: Any, name: str) -> None:
    agent = ball_agent(planners.make(name))
    obs, goal = start(maze)
    agent.reset(goal)
    reached = []
    for _ in range(25):
        obs, _, _, _, info = maze.step(agent.act(obs))
        reached.append(info["is_success"])
    assert reached[-1] and not reached[0]
    assert agent.distance[0] < 0.125**2


LEFT, RIGHT = np.array([[0.35, 0.87, 0, 0, 0], [0.85, 0.87, 0, 0, 0]])


def walk(maze: Any, goals: list[np.ndarray], reach: str, steps: int, near: float) -> np.ndarray:
    """Where the ball is after each step, x ``[steps]``. It starts between the goals, nearer to the
    left one."""
    agent = ball_agent()
    agent.perception.info = replace(agent.info, near=near)
    obs, _ = maze.reset(options={"state": np.array([0.45, 0.87, 0, 0, 0]), "goal_state": goals[0]})
    agent.reset(np.stack([maze.unwrapped.render_state(goal) for goal in goals]), reach=reach)
    places = []
    for _ in range(steps):
        obs, *_, info = maze.step(agent.act(obs))
        places.append(info["state"][0])
    return np.array(places)


def test_several_goals_one_after_the_other(maze: Any) -> None:
    x = walk(maze, [RIGHT, LEFT, RIGHT], "each", 45, near=0.05**2)
    left, right = abs(x - LEFT[0]) < 0.125, abs(x - RIGHT[0]) < 0.125
    first_right = right.argmax()
    assert right.any() and left[first_right:].any() and right[-1]


def test_a_goal_that_is_not_reached_is_not_left(maze: Any) -> None:
    x = walk(maze, [LEFT, RIGHT], "each", 25, near=0.0)
    assert abs(x[-1] - LEFT[0]) < 0.125


@pytest.mark.parametrize("goals", [[LEFT, RIGHT], [RIGHT, LEFT]])
def test_any_of_several_goals(maze: Any, goals: list[np.ndarray]) -> None:
    """The nearer one is cheapest, whatever the order."""
    x = walk(maze, goals, "any", 25, near=0.05**2)
    assert abs(x[-1] - LEFT[0]) < 0.125


def test_a_plan_costs_what_it_does_towards_the_cheapest_goal(maze: Any) -> None:
    obs, goal = start(maze)
    goals = np.stack([goal, maze.unwrapped.render_state(GOALS[1])])
    agent = ball_agent()
    costs, actions = [], torch.rand(1, 7, 3, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    for goals_of_one, reach in ((goals[0], None), (goals[1], None), (goals, "any")):
        agent.reset(goals_of_one, reach=reach)
        agent.observe(obs)
        problem = agent.problem()
        costs.append(problem.cost(problem.rollout(actions), actions))
        distance = agent.distance
    assert costs[2].shape == (1, 7) and distance.shape == (1,)
    torch.testing.assert_close(costs[2], torch.minimum(costs[0], costs[1]))


def test_vector_environments_get_one_action_each() -> None:
    ids = [lambda: gym.make("envs:worldmodel/Maze-v0") for _ in range(2)]
    vector = gym.vector.SyncVectorEnv(ids)
    for env, state, goal in zip(vector.envs, STARTS, GOALS, strict=True):
        env.reset(options={"state": state, "goal_state": goal})
    worlds: list[Any] = [env.unwrapped for env in vector.envs]
    goals = np.stack([w.render_state(g) for w, g in zip(worlds, GOALS, strict=True)])
    pixels = np.stack([w.render() for w in worlds])
    obs: Any = {"pixels": pixels, "proprio": np.stack([w.proprio() for w in worlds])}
    agent = ball_agent()
    agent.reset(goals)
    for _ in range(25):
        actions = agent.act(obs)
        assert actions.shape == (2, 2) and actions.dtype == np.float32
        obs, _, _, _, info = vector.step(actions)
    assert info["is_success"].all()
    vector.close()


def test_the_context_is_what_really_happened(maze: Any) -> None:
    agent = ball_agent()
    obs, goal = start(maze)
    agent.reset(goal)
    frames, actions = [obs], []
    for _ in range(16):
        actions.append(agent.act(obs))
        obs, *_ = maze.step(actions[-1])
        frames.append(obs)
        if len(actions) == 1:  # no past yet: the first frame three times, and no actions
            seen: Any = agent.model.seen
            assert (seen["z"][:, 0] == seen["z"][:, 2]).all() and (seen["past"] == 0).all()
    seen = agent.model.seen
    expected = np.stack(actions[5:15]).reshape(2, 10)
    np.testing.assert_allclose(seen["past"][0], expected, rtol=0)
    np.testing.assert_allclose(
        seen["proprio"][0], np.stack([frames[i]["proprio"] for i in (5, 10, 15)]), rtol=0
    )
    np.testing.assert_allclose(seen["z"][0, :, 0], seen["proprio"][0, :, :2], atol=0.01)


class Spy:
    """CEM, remembering the problems it was given."""

    name = "spy"
    default_budget = planners.Budget(samples=16, iterations=2)

    def __init__(self) -> None:
        self.problems: list[planners.Problem] = []
        self.plans: list[planners.Plan] = []

    def plan(self, problem: Any, budget: Any, generator: Any) -> planners.Plan:
        self.problems.append(problem)
        self.plans.append(planners.make("cem").plan(problem, budget, generator))
        return self.plans[-1]


@pytest.mark.parametrize("execute", [5, 10])
def test_replans_from_what_is_left_of_the_last_plan(maze: Any, execute: int) -> None:
    spy = Spy()
    agent = ball_agent(spy, execute=execute, samples=None, iterations=None)  # type: ignore[arg-type]
    obs, goal = start(maze)
    agent.reset(goal)
    acted = []
    for _ in range(20):
        acted.append(agent.act(obs))
        obs, *_ = maze.step(acted[-1])
    assert len(spy.plans) == 20 // execute
    assert spy.problems[0].warm_start is None
    first, second = spy.plans[0].actions, spy.problems[1].warm_start
    assert second is not None
    gone = execute // 5  # model steps
    torch.testing.assert_close(second[:, :-gone], first[:, gone:], rtol=0, atol=1e-6)
    assert (second[:, -gone:] == 0).all()
    for step in range(execute):
        np.testing.assert_array_equal(acted[step], first[0, step // 5])


@pytest.mark.parametrize(("execute", "look"), [(1, 1), (2, 1), (5, 5), (10, 5)])
def test_the_model_sees_frames_of_whole_model_steps_ago(maze: Any, execute: int, look: int) -> None:
    """Whenever it replans: as if it had begun to look, a model step at a time, at the right phase;
    before the start nothing had moved."""
    agent = ball_agent(execute=execute)
    obs, goal = start(maze)
    agent.reset(goal)
    assert agent.look == look
    given: list[tuple[Any, Any]] = []
    rollout = agent.model.rollout

    def recorded(z: Any, proprio: Any, past: Any, actions: Any) -> Any:
        given.append((proprio, past))
        return rollout(z, proprio, past, actions)

    agent.model.rollout = recorded  # type: ignore[method-assign]
    seen, acted = [], []
    for step in range(23):
        given.clear()
        seen.append(torch.from_numpy(obs["proprio"]).float())
        acted.append(torch.from_numpy(agent.act(obs)))
        assert bool(given) == (step % execute == 0)
        if given:
            proprio, past = given[0]
            ago = [max(0, step - back) for back in (10, 5, 0)]
            torch.testing.assert_close(proprio[0], torch.stack([seen[at] for at in ago]))
            did = [acted[at] if at >= 0 else torch.zeros(2) for at in range(step - 10, step)]
            torch.testing.assert_close(past[0].flatten(), torch.cat(did))
        obs, *_ = maze.step(acted[-1].numpy())


def test_a_plan_is_moved_on_by_single_steps(maze: Any) -> None:
    agent = ball_agent(execute=2)
    plan = torch.arange(6.0).reshape(1, 3, 2) / 10  # one value a model step
    left = agent.layout.remainder(plan, agent.execute, torch.zeros(2))
    assert left.shape == plan.shape
    expected = (3 * plan[:, :-1] + 2 * plan[:, 1:]) / 5
    torch.testing.assert_close(left[:, :-1], expected)
    torch.testing.assert_close(left[:, -1], 3 * plan[:, -1] / 5)


def test_planner_gets_functions_only_and_the_goal_has_zero_cost(maze: Any) -> None:
    agent = ball_agent(near=4.0, time_weight=0.25, stay_weight=0.5)
    obs, goal = start(maze)
    agent.reset(goal)
    agent.act(obs)
    problem = agent.problem()
    at_goal = torch.tensor(GOALS[0, :2]).float()
    z = at_goal.expand(1, 1, 3, 1, 2).clone()
    proprio = torch.cat([at_goal, torch.zeros(2)]).expand(1, 1, 3, 4)
    actions = torch.zeros(1, 1, 3, 2)
    none = problem.cost(planners.Trajectory(z, proprio), actions).item()
    assert none < 1e-3  # the goal is read off an image, to a fraction of a pixel
    on_the_way, at_the_end = z.clone(), z.clone()
    on_the_way[:, :, :2] += 1.0
    at_the_end[:, :, -1] += 1.0
    late = problem.cost(planners.Trajectory(on_the_way, proprio), actions).item() - none
    leaves = problem.cost(planners.Trajectory(at_the_end, proprio), actions).item() - none
    assert late == pytest.approx(2 * 0.25 * 0.4, abs=0.05)  # two model steps late
    assert leaves == pytest.approx(0.5, abs=0.05)  # at once there, but does not stay


def test_proprio_counts_as_far_as_an_image_shows_it(maze: Any) -> None:
    agent = ball_agent(proprio_weight=2.0, near=1e7, time_weight=0.0, stay_weight=1.0)
    obs, goal = start(maze)
    agent.reset(goal)
    agent.act(obs)
    problem = agent.problem()
    at_goal = torch.tensor(GOALS[0, :2]).float()
    z, actions = at_goal.expand(1, 1, 3, 1, 2), torch.zeros(1, 1, 3, 2)
    costs = []
    for number in range(4):
        proprio = torch.cat([at_goal, torch.zeros(2)]).expand(1, 1, 3, 4).clone()
        proprio[:, :, -1, number] += 0.3  # one standard deviation
        costs.append(problem.cost(planners.Trajectory(z, proprio), actions).item())
    assert costs == pytest.approx([2.0, 1.0, 0.0, 0.0], abs=0.05)


def test_proprio_counts_once_the_goal_is_near(maze: Any) -> None:
    """Half where the goal is `near`, all of it at the goal."""
    obs, goal = start(maze)
    far = float(np.mean((STARTS[0, :2] - GOALS[0, :2]) ** 2))
    at_goal = torch.tensor(GOALS[0, :2]).float()
    z, actions = at_goal.expand(1, 1, 3, 1, 2), torch.zeros(1, 1, 3, 2)
    proprio = torch.cat([at_goal, torch.zeros(2)]).expand(1, 1, 3, 4).clone()
    proprio[:, :, -1, 0] += 0.3  # one standard deviation
    for from_start, cost in ((True, 1.0), (False, 2.0)):
        agent = ball_agent(proprio_weight=2.0, near=far / 0.1, time_weight=0.0, stay_weight=1.0)
        agent.reset(goal)
        agent.act(obs if from_start else start(maze)[0] | {"pixels": goal})
        found = agent.problem().cost(planners.Trajectory(z, proprio), actions).item()
        assert found == pytest.approx(cost, abs=0.05)


def test_the_last_objective_is_the_distance_at_the_horizon_and_all_of_proprio(maze: Any) -> None:
    agent = ball_agent(objective="last", proprio_weight=2.0, time_weight=1.0, stay_weight=1.0)
    obs, goal = start(maze)
    agent.reset(goal)
    agent.act(obs)
    z = torch.from_numpy(GOALS[0, :2]).float().expand(1, 1, 3, 1, 2).clone()
    proprio = torch.cat([z[0, 0, 0, 0], torch.zeros(2)]).expand(1, 1, 3, 4).clone()
    z[:, :, :2] += 9.0  # on the way anything goes
    z[:, :, 2] += 1.0
    proprio[:, :, 2, 0] += 0.3  # one standard deviation
    cost = agent.problem().cost(planners.Trajectory(z, proprio), torch.zeros(1, 1, 3, 2)).item()
    assert cost == pytest.approx(1.0 + 2.0, abs=0.05)


def test_a_whole_plan_can_be_carried_out_before_the_next(maze: Any) -> None:
    agent = ball_agent(execute=15)
    obs, goal = start(maze)
    agent.reset(goal)
    plans, actions = [], []
    for _ in range(16):
        actions.append(agent.act(obs))
        plans.append(agent.last_plan)
        obs = maze.step(actions[-1])[0]
    assert all(plan is plans[0] for plan in plans[:15]) and plans[15] is not plans[0]
    np.testing.assert_allclose(actions[:15], agent.sequence(plans[0].actions)[0], atol=1e-6)


def test_holds_when_predictions_are_not_finite(maze: Any) -> None:
    agent = ball_agent(broken=True)
    obs, goal = start(maze)
    agent.reset(goal)
    assert (agent.act(obs) == 0).all()
    assert agent.stop_reason is not None and "NaN" in agent.stop_reason


@pytest.mark.parametrize(
    ("hold", "stopped"),
    [
        ([0.1, -0.2], [0.1, -0.2]),
        (lambda obs: 0.5 * obs["proprio"][:2], None),
        ("repeat", [0.3, 0.1]),
    ],
)
def test_without_a_plan_the_robot_is_held_as_declared(maze: Any, hold: Any, stopped: Any) -> None:
    agent = ball_agent(broken=True, hold=hold)
    obs, goal = start(maze)
    agent.reset(goal, last_action=[0.3, 0.1])
    expected = hold(obs) if callable(hold) else stopped
    np.testing.assert_allclose(agent.act(obs), expected, rtol=1e-6)
    assert agent.stop_reason is Stop.NO_PLAN and agent.intervened.all()


def test_without_a_hold_action_nothing_is_guessed(maze: Any) -> None:
    with pytest.raises(UserError, match="max_action:1: no hold action is declared.*collect --hold"):
        ball_agent(hold="undeclared", guardrails=("max_action:1",))
    obs, goal = start(maze)
    agent = ball_agent(hold="undeclared")
    agent.reset(goal)
    assert np.isfinite(agent.act(obs)).all() and agent.problem().hold is None
    agent = ball_agent(broken=True, hold="undeclared")
    agent.reset(goal)
    with pytest.raises(UserError, match="the robot must stop .*NaN.*no hold action is declared"):
        agent.act(obs)


def test_one_lost_episode_does_not_stop_the_others(maze: Any) -> None:
    agent = ball_agent()
    obs, goal = start(maze)
    agent.reset(np.stack([goal, goal]))
    assert agent.perception.goal is not None
    agent.perception.goal.z[1] = float("nan")
    actions = agent.act({key: np.stack([value] * 2) for key, value in obs.items()})
    assert np.abs(actions[0]).max() > 0.1 and (actions[1] == 0).all()
    assert agent.stop_reasons[0] is None and agent.stop_reasons[1]


def test_a_plan_that_comes_too_late_is_not_carried_out(maze: Any) -> None:
    """What is left of the plan before is, while that lasts."""
    agent = ball_agent(deadline_ms=1e6)
    obs, goal = start(maze)
    agent.reset(goal)
    for _ in range(5):
        obs = maze.step(agent.act(obs))[0]
    assert agent.last_plan is not None and agent.stop_reason is None
    rest = agent.sequence(
        agent.layout.remainder(agent.last_plan.actions, agent.execute, torch.zeros(2))
    )[0]
    agent.config = replace(agent.config, deadline_ms=0.0)
    taken = []
    for _ in range(10):
        taken.append(agent.act(obs))
        obs = maze.step(taken[-1])[0]
        assert agent.stop_reason is None and not agent.intervened.any()
    np.testing.assert_allclose(taken, rest[:10], atol=1e-6)
    agent.reset(goal)  # with no plan before, there is nothing left
    assert (agent.act(obs) == 0).all() and agent.stop_reason is Stop.LATE
    assert str(agent.stop_reason) == "no plan: it came after the deadline"


def test_what_is_left_of_a_plan_has_to_keep_the_guardrails_too(maze: Any) -> None:
    agent = ball_agent()
    obs, goal = start(maze)
    agent.reset(goal)
    for _ in range(5):
        obs = maze.step(agent.act(obs))[0]
    agent.problems = replace(
        agent.problems,
        senses=Senses(("x", "y", "vx", "vy")),
        rules=parse_rules(["no_go:x=-9:9"]),  # the ball is in it
    )
    assert (agent.act(obs) == 0).all() and agent.stop_reason is Stop.NO_PLAN


def test_a_camera_that_shows_the_same_image_while_the_robot_moves_is_stale(maze: Any) -> None:
    agent = ball_agent()
    obs, goal = start(maze)
    agent.reset(goal)
    frozen, reasons, actions = obs["pixels"], [], []
    for step in range(14):
        seen = {**obs, "pixels": frozen} if step < 11 else obs
        actions.append(agent.act(seen))
        reasons.append(agent.stop_reason)
        obs = maze.step(actions[-1])[0]
    first = reasons.index(Stop.STALE)
    assert 1 <= first <= 4 and not any(reasons[:first])
    assert reasons[first:11] == [Stop.STALE] * (11 - first) and not np.any(actions[first:11])
    assert reasons[11:] == [None] * 3 and np.abs(actions[12]).max() > 0.1
    # A robot that stands still may see the same image for ever.
    agent.reset(goal)
    obs, _ = start(maze)
    for _ in range(8):
        agent.act(obs)
        assert agent.stop_reason is None


def test_surprised_it_plans_anew_and_then_stands_still(maze: Any) -> None:
    """An unexpected wind blows for a while."""
    agent = ball_agent(execute=15)
    calm = UsualErrors((0.5, 0.001), ((0.0, 0.005), (0.0, 1e9), (0.0, 1e9)))
    agent.perception.usual_errors, agent.perception.alarm, agent.perception.look = calm, 0.01, 1
    obs, goal = start(maze)
    agent.reset(goal)
    plans, reasons, alarmed = [], [], []
    for step in range(34):
        action = agent.act(obs)
        plans.append(agent.last_plan)
        reasons.append(agent.stop_reason)
        alarmed.append(bool(agent.alarmed[0]))
        windy = np.array([0.0, -0.7], np.float32) if 8 <= step < 18 else 0.0
        obs = maze.step(action + windy)[0]
    first = alarmed.index(True)
    assert 9 <= first <= 13 and not any(reasons[:first])
    assert all(plan is plans[0] for plan in plans[:first]) and plans[first] is not plans[0]
    stopped = [step for step, reason in enumerate(reasons) if reason is Stop.SURPRISED]
    assert all(alarmed[first : stopped[0] + 1]) and stopped[0] == first + 10  # two model steps
    assert stopped == list(range(stopped[0], stopped[-1] + 1)) and stopped[-1] < 30
    assert not any(alarmed[-5:])  # the wind is over, and what comes is as expected


def test_a_deadline_still_gives_an_action(maze: Any) -> None:
    agent = ball_agent(iterations=1000, budget_ms=0.001)
    obs, goal = start(maze)
    agent.reset(goal)
    assert np.isfinite(agent.act(obs)).all()
    assert agent.last_plan is not None and agent.last_plan.stop_reason == "deadline"
    assert agent.last_timings["plan_ms"] > 0


def test_a_time_budget_counts_from_the_observation(
    maze: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With time for it, the search goes on until it converges, and what encoding took is gone."""
    agent = ball_agent(iterations=None, budget_ms=60_000.0)
    obs, goal = start(maze)
    agent.reset(goal)
    agent.act(obs)
    assert agent.last_plan is not None and agent.last_plan.stop_reason == "converged"
    assert agent.last_plan.model_calls > 3 * 64 * 3  # more than what it is set to otherwise

    asked: list[planners.Budget] = []
    plan = agent.planner.plan

    def remember(self: Any, problem: Any, budget: planners.Budget, generator: Any) -> Any:
        asked.append(budget)
        return plan(problem, planners.Budget(8, 1), generator)

    monkeypatch.setattr(planners.Cem, "plan", remember)
    encode = agent.encoder.encode
    monkeypatch.setattr(agent.encoder, "encode", lambda x: (time.sleep(0.2), encode(x))[1])
    agent.reset(goal)
    agent.act(obs)
    assert asked[0].budget_ms is not None and asked[0].budget_ms < 60_000 - 200
    assert asked[0].patience == 5 and asked[0].iterations > 10**5
    assert ball_agent(budget_ms=5.0).budget.iterations == 3  # given, so that many
    gradient = ball_agent(planners.make("gradient"), samples=None, iterations=None, budget_ms=5.0)
    assert gradient.budget.iterations == 30  # its steps shrink towards the last


def test_memory_is_what_was_asked_for(checkpoint: Path, maze: Any) -> None:
    """Whatever fits at once, the plan is the same; and less memory makes smaller chunks."""
    parts, (obs, goal) = load_checkpoint(checkpoint), start(maze)
    plans, chunks = [], []
    for megabytes in (0.001, 0.1, 64.0):
        settings = AgentConfig(samples=40, iterations=3, max_memory_mb=megabytes)
        agent = Agent(*parts, planners.make("cem"), settings)
        agent.reset(goal)
        agent.act(obs)
        chunks.append(agent.problem().chunk)
        plans.append(agent.last_plan)
    assert chunks[0] == 1 and 1 < chunks[1] < 40 < chunks[2]
    assert torch.equal(plans[1].actions, plans[2].actions)
    # One alone is multiplied in another order.
    assert torch.allclose(plans[0].actions, plans[2].actions, atol=0.05)
    with pytest.raises(UserError, match="max_memory_mb is 0"):
        AgentConfig(max_memory_mb=0)


PEAK = """
import sys
import torch
from planners import Budget
from worldmodel.control.config import AgentConfig, make_planner
from worldmodel.studies.bench_parts import placed
from worldmodel.studies.clock import peak_mb
from worldmodel.models.checkpoint import load_checkpoint

torch.set_num_threads(1)
settings = AgentConfig(max_memory_mb=float(sys.argv[1]))
agent = placed(load_checkpoint("chips"), make_planner("cem"), settings)
agent.planner.plan(agent.problem(), Budget(16, 1), torch.Generator())
before = peak_mb()
agent.planner.plan(agent.problem(), Budget(3000, 1), torch.Generator())
print(peak_mb() - before)
"""


@pytest.mark.slow
def test_imagining_takes_no_more_memory_than_it_may() -> None:
    """The process grows by that at most, where it would take several times as much."""
    grown = []
    for megabytes in ("64", "100000"):
        said = subprocess.run(
            [sys.executable, "-c", PEAK, megabytes],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        grown.append(float(said.stdout))
    assert grown[0] < 64 < 250 < grown[1]


def test_no_plan_arrives_after_the_end_of_the_episode(maze: Any) -> None:
    """A tour that is better three model steps ahead is not begun with one step to go."""
    agent = ball_agent(time_weight=0.0, stay_weight=0.0)
    stay, tour = torch.tensor([0.2, 0.2, 0.2]), torch.tensor([0.9, 0.9, 0.0])
    costs = [
        [agent.objective.cost(apart, ends).item() for apart in (stay, tour)]
        for ends in (None, 4, 3, 2, 1, 0)
    ]
    expected = [[0.2, 0.0]] * 3 + [[0.2, 0.9]] * 3
    np.testing.assert_allclose(costs, expected, atol=1e-6)

    obs, goal = start(maze)
    with pytest.raises(UserError, match="steps is 0: an episode has at least 1"):
        agent.reset(goal, steps=0)
    agent.reset(goal, steps=5)
    ends: list[int | None] = []
    original = agent.objective

    class Spy:
        proprio_weight = original.proprio_weight

        def cost(self, distance: Tensor, left: int | None = None) -> Tensor:
            ends.append(left)
            return original.cost(distance, left)

    agent.problems = replace(agent.problems, objective=Spy())
    for _ in range(11):  # twice as long as it was told
        obs = maze.step(agent.act(obs))[0]
    assert list(dict.fromkeys(ends)) == [1, 0, -1]


def test_the_checkpoint_says_how_many_samples_suffice_planners_that_sample() -> None:
    agents = {
        (name, samples): ball_agent(planners.make(name), samples=samples, iterations=None)
        for name in ("cem", "mppi", "gradient")
        for samples in (None, 7)
    }
    found = {key: (a.budget.samples, a.budget.iterations) for key, a in agents.items()}
    assert found["cem", None] == found["mppi", None] == (40, 2)
    assert found["gradient", None] == (8, 30) and found["gradient", 7] == (7, 30)
    assert found["cem", 7] == (7, 2)


def test_action_repeat_sets_how_finely_is_planned(maze: Any) -> None:
    obs, goal = start(maze)
    for repeat, distinct in ((None, 1), (1, 5)):
        agent = ball_agent(action_repeat=repeat)
        agent.reset(goal)
        assert len({tuple(agent.act(obs)) for _ in range(5)}) == distinct
    with pytest.raises(UserError, match="must divide the frameskip"):
        ball_agent(action_repeat=2)


# ------------------------------------------------------------------------------- the real model
@pytest.mark.parametrize("name", sorted(planners.PLANNERS))
def test_same_seed_same_actions_within_bounds(maze: Any, checkpoint: Path, name: str) -> None:
    obs, goal = start(maze)
    acted = []
    for _ in range(2):
        agent = worldmodel.load(checkpoint, planner=name, samples=16, iterations=3, seed=4)
        agent.reset(goal)
        acted.append(np.stack([agent.act(obs) for _ in range(7)]))
    np.testing.assert_array_equal(acted[0], acted[1])
    assert (np.abs(acted[0]) <= 0.75).all() and np.abs(acted[0]).max() > 0
    agent.reset(goal, seed=5)
    other = np.stack([agent.act(obs) for _ in range(7)])
    assert (other != acted[0]).any() or name == "gradient"


def test_bfloat16_imagines_what_float32_does(maze: Any, checkpoint: Path) -> None:
    obs, goal = start(maze)
    actions = torch.rand(1, 4, 3, 2) * 1.5 - 0.75
    imagined = []
    for narrow in (False, True):
        agent = worldmodel.load(checkpoint, samples=4, iterations=1, bfloat16=narrow)
        agent.reset(goal)
        agent.act(obs)
        imagined.append(agent.problem().rollout(actions).z)
    moved = (imagined[0][:, :, -1] - imagined[0][:, :, 0]).square().mean()
    assert moved > 0
    assert (imagined[0] - imagined[1]).square().mean() < 0.01 * moved


def test_importing_worldmodel_is_cheap() -> None:
    import subprocess
    import sys

    code = "import sys, worldmodel; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "False"


# ------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proprio": None}, "lacks proprio"),
        ({"pixels": np.zeros((112, 112, 3), np.float32)}, "uint8"),
        ({"pixels": np.zeros((112, 112, 4), np.uint8)}, "RGB"),
        ({"pixels": np.zeros((112, 112), np.uint8)}, "RGB"),
        ({"pixels": np.zeros((112, 96, 3), np.uint8)}, "square"),
        ({"pixels": np.zeros((2, 112, 112, 3), np.uint8)}, "goal"),
        ({"proprio": np.array([0, np.nan, 0, 0])}, "finite"),
        ({"proprio": np.zeros(3)}, "4 numbers"),
    ],
)
def test_bad_observations_are_refused(maze: Any, change: dict[str, Any], message: str) -> None:
    agent = ball_agent()
    obs, goal = start(maze)
    agent.reset(goal)
    changed = {key: value for key, value in {**obs, **change}.items() if value is not None}
    with pytest.raises(UserError, match=message):
        agent.act(changed)
    agent.act(obs)  # and no harm done


def test_bad_goals_and_settings_are_refused(maze: Any, checkpoint: Path) -> None:
    obs, goal = start(maze)
    with pytest.raises(UserError, match="no goal yet"):
        ball_agent().act(obs)
    with pytest.raises(UserError, match="reach is 'all': choose any .* or each"):
        ball_agent().reset(np.zeros((2, 112, 112, 3), np.uint8), reach="all")
    with pytest.raises(UserError, match="uint8"):
        ball_agent().reset(goal.astype(np.float32))
    with pytest.raises(UserError, match="execute is 16, but only 3 model steps"):
        ball_agent(execute=16)
    with pytest.raises(UserError, match="near is 0"):
        ball_agent(near=0.0)
    with pytest.raises(UserError, match="samples is 0"):
        ball_agent(samples=0)
    with pytest.raises(UserError, match="did you mean 'samples'"):
        worldmodel.load(checkpoint, sample=3)
    with pytest.raises(UserError, match="did you mean 'mppi'"):
        worldmodel.load(checkpoint, planner="mpi")


# -------------------------------------------------------------------------------------- choices
def choosing_agent(planner: str = "cem", **config: Any) -> Agent:
    """An agent whose actions are one choice between two options."""
    model: Any = BallModel()
    model.action_low, model.action_high = torch.zeros(2), torch.ones(2)
    info = replace(ball_agent().info, choices=(2,), hold=(0.0, 1.0))
    settings = AgentConfig(samples=16, iterations=2, action_repeat=1, **config)
    return Agent(model, BallFinder(), info, planners.make(planner), settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("planner", ["cem", "mppi", "cmaes"])
def test_model_and_environment_see_the_same_choices(maze: Any, planner: str) -> None:
    agent = choosing_agent(planner)
    obs, goal = start(maze)
    agent.reset(goal)
    acted = []
    for _ in range(12):
        acted.append(agent.act(obs))
        plan: Any = agent.last_plan
        assert ((plan.actions == 0) | (plan.actions == 1)).all()
    assert (np.sort(np.stack(acted), 1) == [0, 1]).all()
    past: Any = agent.model.seen["past"]
    assert (past.unflatten(-1, (-1, 2)).sum(-1) == 1).all()


def test_whatever_is_executed_is_a_choice(maze: Any) -> None:
    """Even a hold action that is none."""
    agent = choosing_agent()
    agent = Agent(agent.model, agent.encoder, agent.info, agent.planner, agent.config, (0.6, 0.5))
    agent.model.broken = True  # so that the agent holds
    obs, goal = start(maze)
    agent.reset(goal)
    assert agent.act(obs).tolist() == [1.0, 0.0] and agent.stop_reason == Stop.NO_PLAN


def test_what_needs_continuous_actions_is_refused_for_choices() -> None:
    with pytest.raises(UserError, match="'max_action:0.5': actions are choices here"):
        choosing_agent(guardrails=("max_action:0.5",))
    with pytest.raises(UserError, match="planner gradient: actions are choices here"):
        choosing_agent("gradient")
