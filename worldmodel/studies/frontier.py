"""What guardrails cost, and what softer ways of keeping them buy.

    python -m worldmodel.frontier --env worldmodel/PushT-v0 --guardrail no_go:disc=0.256:0.256:0.06

The same tasks with the same planner: without guardrails, with what breaks them added to the cost
under several weights (a penalty), with a weight that grows as long as plans break them (a
Lagrangian), and with guardrails that no plan may break. Each is one point: in how many episodes a
guardrail was broken, by true states, and in how many the goal was reached. ``frontier.png`` draws
them, ``frontier.json`` has the numbers.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planners import Problem, Trajectory, verify
from worldmodel.agent import Agent, AgentConfig, make_planner
from worldmodel.cli import atomic_write_bytes, atomic_write_json, parse_config, writable_folder
from worldmodel.cli import run as run_command
from worldmodel.control.guardrails import parse_rules, permitted
from worldmodel.errors import UserError
from worldmodel.measure.environments import check_fits, make_env
from worldmodel.measure.evaluation import Watch, kept, run_agent
from worldmodel.measure.film import ALARM, WARNING, as_png
from worldmodel.measure.outcomes import measure_outcomes
from worldmodel.measure.statistics import in_percent, mean_interval, rate_interval
from worldmodel.measure.tasks import sample_tasks
from worldmodel.models.checkpoint import bundled_for, load_checkpoint

Array = NDArray[Any]


@dataclass(frozen=True)
class FrontierConfig:
    """What to compare, and how often."""

    env: str
    """Gymnasium id, such as worldmodel/PushT-v0."""
    guardrail: list[str] = field(default_factory=list)
    """What no plan may break; may be given again. Its margin holds for all of them."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment; default: the checkpoint's."""
    checkpoint: str | None = None
    """Bundled name or folder; default: the one bundled for the environment."""
    planner: str = "cem"
    """cem, mppi, cmaes or gradient."""
    samples: int | None = None
    """Candidates per iteration; default: the checkpoint's."""
    iterations: int | None = None
    """Iterations; default: the checkpoint's."""
    weights: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    """Of the penalties, in cost per unit of the guardrail."""
    rate: float = 10.0
    """By how much the Lagrangian's weight grows per unit of breach and plan."""
    episodes: int = 100
    """Tasks."""
    seed: int = 0
    """Of tasks and planner."""
    budget_steps: int = 50
    """Environment steps of every episode."""
    goal_offset: int = 25
    """How many environment steps ahead the goals lie (Push-T)."""
    across: bool = False
    """Only tasks whose straight way from start to goal breaks a guardrail."""
    batch: int = 50
    """Episodes planned together."""
    out: Path = Path("out/frontier")
    """Folder for frontier.json and frontier.png."""

    def __post_init__(self) -> None:
        if not self.guardrail:
            raise UserError("there is nothing to compare: give at least one --guardrail")
        for rule in parse_rules(self.guardrail):
            if rule.tier == 1:
                raise UserError(f"guardrail {rule.text!r} is kept exactly: it costs no breach")
        for name in ("episodes", "budget_steps", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not all(weight > 0 for weight in (*self.weights, self.rate)):
            raise UserError(f"weights {self.weights} and rate {self.rate} must be above 0")


class SoftAgent(Agent):
    """Trades guardrails against the goal, as penalties do.

    weight: of what plans break, at the beginning.
    rate: by how much it grows per unit and plan that breaks them.
    """

    weight: float = 0.0
    rate: float = 0.0

    def reset(self, goals: Array, seed: int | None = None, steps: int | None = None) -> None:
        super().reset(goals, seed, steps)
        self.weights = torch.full((len(self.stop_reasons), 1), self.weight, device=self.device)

    def problem(self, warm_start: Tensor | None = None) -> Problem:
        hard = super().problem(warm_start)

        def cost(trajectory: Trajectory, actions: Tensor) -> Tensor:
            return hard.cost(trajectory, actions) + self.weights * _broken(
                hard, trajectory, actions
            )

        return dataclasses.replace(hard, cost=cost, guardrails=())

    def _replan(self, asked: float) -> None:
        super()._replan(asked)
        if self.rate:
            assert self.last_plan is not None
            hard = super().problem()
            plan = verify(hard, self.last_plan.actions)
            broken = plan.violations.clamp(min=0).sum((-2, -1))
            self.weights += self.rate * broken[:, None]


def _broken(problem: Problem, trajectory: Trajectory, actions: Tensor) -> Tensor:
    """By how much candidates break the guardrails of a problem, over all steps, ``[E, S]``."""
    return torch.stack(
        [rail(trajectory, actions).clamp(min=0).sum(-1) for rail in problem.guardrails]
    ).sum(0)


def frontier(config: FrontierConfig) -> dict[str, Any]:
    """Run all of them; what it returns is what ``frontier.json`` gets.

    Raises:
        UserError: the checkpoint is not for this environment, or anything else in `config`.
    """
    checkpoint = config.checkpoint or bundled_for(config.env)
    parts = load_checkpoint(checkpoint)
    info = parts[2]
    planner = make_planner(config.planner)
    settings = AgentConfig(
        samples=config.samples, iterations=config.iterations, guardrails=tuple(config.guardrail)
    )

    def soft(weight: float, rate: float = 0.0) -> Agent:
        agent = SoftAgent(*parts, planner, settings)
        agent.weight, agent.rate = weight, rate
        return agent

    agents: dict[str, Agent] = {
        "unconstrained": Agent(*parts, planner, dataclasses.replace(settings, guardrails=())),
        **{f"penalty {weight:g}": soft(weight) for weight in config.weights},
        "Lagrangian": soft(0.0, config.rate),
        "guardrail": Agent(*parts, planner, settings),
    }
    count = min(config.batch, config.episodes)
    kwargs = config.env_kwargs or info.env_kwargs
    envs = [make_env(config.env, kwargs, info.image_size) for _ in range(count)]
    try:
        check_fits(envs[0], info)
        names = getattr(envs[0].unwrapped, "state_names", ())
        rules = agents["guardrail"].rules
        allowed = functools.partial(permitted, rules, names, across=config.across)
        tasks = sample_tasks(envs[0], config.episodes, config.seed, config.goal_offset, allowed)
        points = {}
        for name, agent in agents.items():
            watch = Watch()
            paths = run_agent(agent, envs, tasks, config.budget_steps, config.seed, watch=watch)
            outcomes = measure_outcomes(envs[0], paths, tasks)
            points[name] = {
                "success": rate_interval(outcomes.success_any),
                **kept(rules, names, paths, outcomes),
                "stop_rate": mean_interval(np.mean(watch.stopped, 1)),
            }
    finally:
        for env in envs:
            env.close()
    return {
        "env": config.env,
        "checkpoint": checkpoint,
        "planner": config.planner,
        "guardrails": config.guardrail,
        "episodes": config.episodes,
        "seed": config.seed,
        "across": config.across,
        "samples": agents["guardrail"].budget.samples,
        "iterations": agents["guardrail"].budget.iterations,
        "points": points,
    }


def draw(result: dict[str, Any]) -> bytes:
    """A PNG: share of episodes in breach against success."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    looks = {"unconstrained": ("s", "#666666"), "Lagrangian": ("D", "#CC79A7")}
    looks |= {"guardrail": ("*", WARNING), "penalty": ("o", ALARM)}
    for kind, (marker, colour) in looks.items():
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
            label="penalty, 7 weights" if kind == "penalty" and len(chosen) == 7 else kind,
            ms=13 if kind == "guardrail" else 6,
            lw=0.8,
            elinewidth=0.6,
        )
    axes.set(xlabel="episodes in breach, %", ylabel="success at any time, %", xlim=(-1, None))
    axes.set_title(", ".join(result["guardrails"]), fontsize=9)
    axes.legend()
    axes.grid(alpha=0.3)
    return as_png(figure)


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""

    rows = [
        f"{result['env']}, {', '.join(result['guardrails'])}: {result['planner']} "
        f"{result['samples']} x {result['iterations']}, {result['episodes']} episodes",
        "",
        "| | episodes in breach | success at any time | success without a breach | worst depth |",
        "|---" * 5 + "|",
    ]
    for name, point in result["points"].items():
        cells = (point["violation_per_episode"], point["success"], point["safe_success"])
        worst = max(point["worst_depth"].values())
        rows.append(f"| {name} | {' | '.join(map(in_percent, cells))} | {worst:+.4f} |")
    return "\n".join(rows)


@run_command
def main(argv: list[str] | None = None) -> None:
    """Compare, print a table, write the files."""
    config = parse_config(
        FrontierConfig, argv, "worldmodel.frontier", "What guardrails cost, beside penalties."
    )
    writable_folder(config.out)
    result = frontier(config)
    atomic_write_json(config.out / "frontier.json", result)
    atomic_write_bytes(config.out / "frontier.png", draw(result))
    print(table(result))
    print(f"wrote {config.out / 'frontier.png'}")
