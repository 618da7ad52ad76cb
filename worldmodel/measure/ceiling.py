"""The ceiling: planning on the true simulator instead of the learned model.

The difference between the ceiling and the agent's success is what a perfect model would gain with
the same planner and budget.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from envs.task import Task, task_of
from planners import Budget, Plan, Planner, Problem, Trajectory
from worldmodel.agent import Agent
from worldmodel.cli import progress as show_progress
from worldmodel.control.guardrails import Rule, action_limits
from worldmodel.control.hold import UNDECLARED
from worldmodel.errors import UserError
from worldmodel.measure.outcomes import task_distance
from worldmodel.measure.rollouts import mix
from worldmodel.measure.statistics import spearman
from worldmodel.measure.tasks import GoalTask, begin, render

Array = NDArray[Any]


FEW = 20  # tasks


@dataclass(frozen=True)
class CeilingConfig:
    """Planning on the true simulator."""

    episodes: int | None = None
    """Tasks planned on the simulator, which is slow; default: 20, or all if there are fewer; 0 for
    none."""
    samples: int = 64
    """Candidates per iteration."""
    iterations: int = 4
    """Iterations."""
    cost: Literal["task", "latents"] = "task"
    """What is minimised: the task's distance between states, or the agent's own cost on images that
    the simulator renders. The second tells errors of the latents from errors of the predictor."""

    def __post_init__(self) -> None:
        for name, least in (("episodes", 0), ("samples", 1), ("iterations", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"ceiling.{name} is {value}: it must be at least {least}")


class SimulatorPlanner:
    """A planner that imagines on the true simulator: `planner` with another rollout function.

    Latents and proprio of a candidate are those of the images that the simulator renders. The cost
    stays the agent's own. For one episode at a time.
    """

    name: ClassVar[str] = "simulator"
    default_budget: ClassVar[Budget] = Budget(64, 4)

    def __init__(self, planner: Planner, agent: Agent, env: gym.Env[Any, Any]) -> None:
        self.planner, self.agent = planner, agent
        self.world = task_of(env)

    def plan(self, problem: Problem, budget: Budget, generator: torch.Generator) -> Plan:
        """See `planners.Planner`."""
        now = self.world.get_state()

        def rollout(actions: torch.Tensor) -> Trajectory:
            return self._render(now, actions)

        simulated = dataclasses.replace(problem, rollout=rollout)
        return self.planner.plan(simulated, budget, generator)

    def _render(self, state: Array, actions: torch.Tensor) -> Trajectory:
        """What the simulator shows after each model step of candidates ``[1, S, T, A]``."""
        agent, frameskip = self.agent, self.agent.frameskip
        primitive = agent.layout.primitive(actions[0]).unflatten(-1, (frameskip, -1)).flatten(1, 2)
        observations = [
            self.world.observe_state(after)
            for sequence in primitive.cpu().numpy()
            for after in self.world.physics(state, sequence)[frameskip::frameskip]
        ]
        z = agent.inference.encode(np.stack([obs["pixels"] for obs in observations]))
        proprio = torch.from_numpy(np.stack([obs["proprio"] for obs in observations]))
        shape = (1, *actions.shape[1:3])
        return Trajectory(z.unflatten(0, shape), proprio.to(z.device).unflatten(0, shape))


def run_ceiling(
    agent: Agent,
    planner: Planner,
    budget: Budget,
    env: gym.Env[Any, Any],
    tasks: Sequence[GoalTask],
    budget_steps: int,
    seed: int,
    variation: Sequence[str] = (),
) -> list[Array]:
    """Run the agent's loop on the simulator, with the task's distance as cost.

    The agent's guardrails hold for every environment step.

    Returns:
        The states of each episode ``[budget_steps + 1, Ds]``.
    """
    paths = []
    for number, task in enumerate(show_progress(tasks, len(tasks), "ceiling", "episode")):
        begin(env, task, variation)
        generator = torch.Generator().manual_seed(mix(seed, number))
        paths.append(_run_episode(agent, planner, budget, env, task, budget_steps, generator))
    return paths


def _run_episode(
    agent: Agent,
    planner: Planner,
    budget: Budget,
    env: gym.Env[Any, Any],
    task: GoalTask,
    budget_steps: int,
    generator: torch.Generator,
) -> Array:
    """The states of one episode of `run_ceiling`."""
    world = task_of(env)
    path, warm_start = [task.start_state], None
    last = torch.zeros(1, len(agent.model.action_low), dtype=torch.float64)
    while len(path) <= budget_steps:
        steps_left = budget_steps + 1 - len(path)
        hold = _hold_action(agent, world, path[-1], last)
        problem = _true_problem(agent, env, task, path[-1], steps_left, last, warm_start, hold)
        plan = planner.plan(problem, budget, generator)
        actions = agent.sequence(plan.actions)[0, : agent.execute]
        if not plan.feasible[0]:
            if hold is None:
                raise UserError(UNDECLARED)
            actions = hold.expand_as(actions)  # as far as the limits allow
            if problem.limits is not None:
                actions = problem.limits.project(actions[None])[0]
        last = actions[-1:]
        path += list(world.physics(path[-1], actions.numpy())[1:])
        warm_start = agent.layout.remainder(plan.actions, agent.execute, hold)
    return np.stack(path[: budget_steps + 1])


def _hold_action(
    agent: Agent, world: Task, state: Array, last: torch.Tensor
) -> torch.Tensor | None:
    """The action ``[1, A]`` that holds the robot still in a state ``[Ds]``, where one is known."""
    if not agent.hold.choices:
        return None
    fixed = agent.hold.fixed
    held = agent.hold.actions([world.observe_state(state)] if fixed is None else [{}], last)
    return None if held is None else held.cpu().double()


def _true_problem(
    agent: Agent,
    env: gym.Env[Any, Any],
    task: GoalTask,
    state: Array,
    steps_left: int,
    last: torch.Tensor,
    warm_start: torch.Tensor | None,
    hold: torch.Tensor | None,
) -> Problem:
    """The agent's problem with the simulator as model; ``z`` holds the states of every environment
    step, ``[1, S, T, F, Ds]``."""
    world = task_of(env)
    objective = agent.config.objective.make(1.0)

    def rollout(actions: torch.Tensor) -> Trajectory:
        primitive = agent.layout.primitive(actions[0]).unflatten(-1, (agent.frameskip, -1))
        states = [world.physics(state, each) for each in primitive.flatten(1, 2).numpy()]
        after = torch.from_numpy(np.stack(states)[:, 1:])
        return Trajectory(after.unflatten(1, (-1, agent.frameskip))[None])

    def cost(trajectory: Trajectory, actions: torch.Tensor) -> torch.Tensor:
        distance = task_distance(env, trajectory.z[:, :, :, -1].numpy(), task.goal_state)
        return objective.cost(torch.from_numpy(distance), math.ceil(steps_left / agent.frameskip))

    return Problem(
        rollout,
        cost,
        agent.low.double().cpu(),
        agent.high.double().cpu(),
        agent.horizon,
        guardrails=tuple(
            TrueGuardrail(rule, world, state)
            for rule in agent.rules
            if rule.tier == 2 and rule.decided_by_states
        ),
        warm_start=warm_start,
        hold=None if hold is None else agent.layout.planned(hold),
        limits=action_limits(agent.rules, last),
    )


@dataclass(frozen=True)
class TrueGuardrail:
    """A rule on the true states of every environment step, ``z`` ``[1, S, T, F, Ds]``."""

    rule: Rule
    task: Task
    now: Array
    tier: int = 2
    unit: str = "m"

    @property
    def name(self) -> str:
        return self.rule.text

    def __call__(self, trajectory: Trajectory, actions: torch.Tensor) -> torch.Tensor:
        after = trajectory.z[0].flatten(1, 2).numpy()  # [S, T * F, Ds]
        first = np.broadcast_to(self.now, (len(after), 1, len(self.now)))
        violation = self.rule.violation(self.task, np.concatenate([first, after], 1))
        return torch.from_numpy(violation).unflatten(1, (trajectory.z.shape[2], -1)).amax(2)[None]


def rank_correlation(
    agent: Agent,
    env: gym.Env[Any, Any],
    tasks: Sequence[GoalTask],
    seed: int,
    variation: Sequence[str] = (),
    candidates: int = 64,
) -> Array:
    """How well the model ranks plans: Spearman's correlation ``[n]``, at the start of each task,
    between the agent's cost of random plans and their true cost by the task's distance."""
    world = task_of(env)
    found = []
    for number, task in enumerate(tasks):
        obs, _ = begin(env, task, variation)
        agent.reset(render(env, task.goal_state))
        agent.observe(obs)
        generator = torch.Generator().manual_seed(mix(seed, number))
        shape = (1, candidates, agent.horizon, len(agent.low))
        share = torch.rand(shape, generator=generator).to(agent.low)
        actions = torch.lerp(agent.low, agent.high, share)
        problem = agent.problem()
        with torch.no_grad():
            predicted = problem.cost(problem.rollout(actions), actions)[0]
        ends = [
            world.physics(task.start_state, sequence)[agent.frameskip :: agent.frameskip]
            for sequence in agent.sequence(actions[0]).cpu().numpy()
        ]
        distance = torch.from_numpy(task_distance(env, np.stack(ends), task.goal_state))
        true = agent.config.objective.make(1.0).cost(distance)
        found.append(spearman(predicted.float().cpu(), true.cpu()))
    return np.array(found)
