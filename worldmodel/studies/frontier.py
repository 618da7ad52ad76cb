"""Success and violations of hard guardrails, beside soft constraints.

    python -m worldmodel.studies frontier --env worldmodel/PushT-v0 \
        --guardrail no_go:disc=0.256:0.256:0.06

The same tasks with the same planner, each time one point: without guardrails; with violations added
to the cost under several weights (penalty method); with a weight that grows while plans violate
guardrails (Lagrangian); and with hard guardrails. A point is the fraction of episodes that violate
a guardrail, by true states, and the fraction that reach the goal.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.task import task_of
from planners import Budget, Plan, Planner, Problem, Trajectory, verify
from worldmodel.agent import Agent
from worldmodel.cli.device import pick_device
from worldmodel.control.config import AgentConfig, PlannerConfig
from worldmodel.control.guardrails import parse_rules, permitted
from worldmodel.control.hold import Declared, task_hold
from worldmodel.encoders.encoder import Encoder
from worldmodel.errors import UserError
from worldmodel.measure.environments import check_fits, chosen_kwargs
from worldmodel.measure.film import ALARM, WARNING, as_png
from worldmodel.measure.guardrail_metrics import violation_metrics
from worldmodel.measure.outcomes import measure_outcomes
from worldmodel.measure.rollouts import RolloutLog, env_copies, run_agent
from worldmodel.measure.statistics import in_percent, mean_interval, rate_interval
from worldmodel.measure.tasks import sample_tasks
from worldmodel.models.checkpoint import CheckpointInfo, bundled_for, load_checkpoint
from worldmodel.models.world_model import WorldModel
from worldmodel.studies.study import Study

Array = NDArray[Any]


@dataclass(frozen=True)
class FrontierConfig:
    """What to compare."""

    SHORT: ClassVar = {"planner": "planner.name", "guardrail": "agent.guardrails"}

    env: str
    """Gymnasium id, such as worldmodel/PushT-v0."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment; default: the checkpoint's."""
    checkpoint: str | None = None
    """Bundled name, folder or hf:USER/NAME; default: the one bundled for the environment."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """Which planner searches. --planner mppi is short for --planner.name mppi."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """How the agent plans and acts. --guardrail RULE is short for --agent.guardrails; margins hold
    for soft constraints, too."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    weights: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    """Weights of the penalties, in cost per unit of the violation."""
    rate: float = 10.0
    """Growth of the Lagrangian's weight per unit of violation and plan."""
    episodes: int = 100
    """Number of tasks."""
    seed: int = 0
    """Seed of tasks and planner."""
    budget_steps: int = 50
    """Environment steps of every episode."""
    goal_offset: int = 25
    """Environment steps from start to goal, where the task has such goals."""
    across: bool = False
    """Only tasks whose straight line from start to goal violates a guardrail."""
    batch: int = 50
    """Episodes planned together."""
    out: Path = Path("out/frontier.json")
    """JSON file for the result; the plot is a PNG beside it."""

    def __post_init__(self) -> None:
        if not self.agent.guardrails:
            raise UserError("there is nothing to compare: give at least one --guardrail")
        for rule in parse_rules(self.agent.guardrails):
            if rule.tier == 1:
                raise UserError(
                    f"guardrail {rule.text!r} is enforced exactly: it has no violations to compare"
                )
        for name in ("episodes", "budget_steps", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not all(weight > 0 for weight in (*self.weights, self.rate)):
            raise UserError(f"weights {self.weights} and rate {self.rate} must be above 0")


class SoftPlanner:
    """A planner with soft constraints: violations are added to the cost.

    Args:
        planner: searches for actions.
        weight: initial weight of the violations.
        rate: growth of the weight per unit of violation and plan.
    """

    def __init__(self, planner: Planner, weight: float, rate: float = 0.0) -> None:
        self.planner, self.weight, self.rate = planner, weight, rate
        self.name, self.default_budget = planner.name, planner.default_budget

    def __repr__(self) -> str:
        return repr(self.planner)  # calibrated margins are those of the planner

    def plan(self, problem: Problem, budget: Budget, generator: torch.Generator) -> Plan:
        """See `planners.Planner.plan`. The first plan of an episode has no warm start."""
        if problem.warm_start is None:
            self.weights = problem.low.new_full((problem.episodes, 1), self.weight)

        def cost(trajectory: Trajectory, actions: Tensor) -> Tensor:
            penalty = self.weights * total_violation(problem, trajectory, actions)
            return problem.cost(trajectory, actions) + penalty

        soft = dataclasses.replace(problem, cost=cost, guardrails=())
        plan = self.planner.plan(soft, budget, generator)
        violations = verify(problem, plan.actions).violations
        total = violations.clamp(min=0).sum((-2, -1))
        self.weights = self.weights + self.rate * total[:, None]
        return dataclasses.replace(plan, violations=violations)


def total_violation(problem: Problem, trajectory: Trajectory, actions: Tensor) -> Tensor:
    """Sum of the violations of all guardrails over all steps, ``[E, S]``."""
    return torch.stack(
        [rail(trajectory, actions).clamp(min=0).sum(-1) for rail in problem.guardrails]
    ).sum(0)


def frontier(config: FrontierConfig) -> dict[str, Any]:
    """Run the study.

    Raises:
        UserError: the checkpoint is not for this environment, or anything else in `config`.
    """
    checkpoint = config.checkpoint or bundled_for(config.env)
    device = pick_device(config.device)
    parts = load_checkpoint(checkpoint, device)
    info = parts[2]
    count = min(config.batch, config.episodes)
    kwargs = chosen_kwargs(config.env_kwargs, info.env_kwargs)
    with env_copies(config.env, kwargs, info.image_size, count) as envs:
        check_fits(envs[0], info)
        agents = make_agents(config, parts, task_hold(envs[0]))
        hard = agents["guardrail"]
        task = task_of(envs[0])
        allowed = functools.partial(permitted, hard.rules, task, across=config.across)
        tasks = sample_tasks(envs[0], config.episodes, config.seed, config.goal_offset, allowed)
        points = {}
        for name, agent in agents.items():
            log = RolloutLog()
            paths = run_agent(agent, envs, tasks, config.budget_steps, config.seed, log=log)
            outcomes = measure_outcomes(envs[0], paths, tasks)
            points[name] = {
                "success": rate_interval(outcomes.success_any),
                **violation_metrics(hard.rules, task, paths, outcomes),
                "stop_rate": mean_interval(np.mean(log.stopped, 1)),
            }
    return {
        "env": config.env,
        "checkpoint": checkpoint,
        "planner": config.planner.name,
        "guardrails": list(config.agent.guardrails),
        "episodes": config.episodes,
        "seed": config.seed,
        "across": config.across,
        "samples": hard.budget.samples,
        "iterations": hard.budget.iterations,
        "device": str(device),
        "points": points,
    }


def make_agents(
    config: FrontierConfig, parts: tuple[WorldModel, Encoder, CheckpointInfo], hold: Declared
) -> dict[str, Agent]:
    """The agents to compare, by name; `hold` is the environment's hold action."""
    planner = config.planner.make()

    def soft(weight: float, rate: float = 0.0) -> Agent:
        return Agent(*parts, SoftPlanner(planner, weight, rate), config.agent, hold)

    free = dataclasses.replace(config.agent, guardrails=())
    return {
        "unconstrained": Agent(*parts, planner, free, hold),
        **{f"penalty {weight:g}": soft(weight) for weight in config.weights},
        "Lagrangian": soft(0.0, config.rate),
        "guardrail": Agent(*parts, planner, config.agent, hold),
    }


def draw(result: dict[str, Any]) -> bytes:
    """A PNG: success against the fraction of episodes with a violation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    styles = {"unconstrained": ("s", "#666666"), "Lagrangian": ("D", "#CC79A7")}
    styles |= {"guardrail": ("*", WARNING), "penalty": ("o", ALARM)}
    for kind, (marker, colour) in styles.items():
        chosen = [p for name, p in result["points"].items() if name.partition(" ")[0] == kind]
        x, y = (
            np.array([[100 * p[key][at] for p in chosen] for at in ("rate", "low", "high")])
            for key in ("violation_per_episode", "success")
        )
        axes.errorbar(
            x[0],
            y[0],
            [y[0] - y[1], y[2] - y[0]],
            [x[0] - x[1], x[2] - x[0]],
            marker + ("-" if kind == "penalty" else ""),
            color=colour,
            label=kind,
            ms=13 if kind == "guardrail" else 6,
            lw=0.8,
            elinewidth=0.6,
        )
    axes.set(
        xlabel="episodes with a violation, %", ylabel="success at any time, %", xlim=(-1, None)
    )
    axes.set_title(", ".join(result["guardrails"]), fontsize=9)
    axes.legend()
    axes.grid(alpha=0.3)
    return as_png(figure)


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = [
        f"{result['env']}, {', '.join(result['guardrails'])}: {result['planner']} "
        f"{result['samples']} x {result['iterations']}, {result['episodes']} episodes",
        "",
        "| | episodes with a violation | success at any time | safe success | worst depth |",
        "|---" * 5 + "|",
    ]
    for name, point in result["points"].items():
        cells = (point["violation_per_episode"], point["success"], point["safe_success"])
        worst = max(point["worst_depth"].values())
        rows.append(f"| {name} | {' | '.join(map(in_percent, cells))} | {worst:+.4f} |")
    return "\n".join(rows)


STUDY = Study(FrontierConfig, frontier, table, draw)
