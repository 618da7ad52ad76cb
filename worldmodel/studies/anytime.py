"""Success under time limits: the same tasks with several limits per decision.

    python -m worldmodel.studies anytime --env worldmodel/PushT-v0 --checkpoints pusht,pusht-fast

One robot at a time acts with a limit on each decision, from observation to action. A plan takes
until the limit or until the search converges. Run it on an idle machine: other processes take time
away.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from worldmodel.control.config import AgentConfig, PlannerConfig
from worldmodel.errors import UserError
from worldmodel.measure.ceiling import CeilingConfig
from worldmodel.measure.evaluation import EvaluateConfig, evaluate
from worldmodel.measure.film import ALARM, WARNING, as_png
from worldmodel.measure.statistics import in_percent
from worldmodel.models.checkpoint import bundled_for
from worldmodel.studies.study import Study

COLOURS = (ALARM, WARNING, "#009E73", "#CC79A7")


@dataclass(frozen=True)
class AnytimeConfig:
    """What to compare."""

    SHORT: ClassVar = {"planner": "planner.name", "guardrail": "agent.guardrails"}

    env: str
    """Gymnasium id, such as worldmodel/PushT-v0."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment; default: the checkpoint's."""
    checkpoints: str | None = None
    """Bundled names, folders or hf:USER/NAME, separated by commas; default: the one bundled for the
    environment."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """Which planner searches: cem, mppi or cmaes, as --planner mppi."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """How the agent plans and acts. --guardrail RULE is short for --agent.guardrails."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    limits: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
    """Limits of a decision, milliseconds."""
    episodes: int = 100
    """Number of tasks."""
    seed: int = 0
    """Seed of tasks and planner."""
    budget_steps: int = 50
    """Environment steps of every episode."""
    out: Path = Path("out/anytime.json")
    """JSON file for the result; the plot is a PNG beside it."""

    def __post_init__(self) -> None:
        if not self.limits or not min(self.limits) > 0:
            raise UserError(f"limits is {list(self.limits)}: give milliseconds above 0")
        if self.planner.name == "gradient":
            raise UserError(
                "the gradient planner takes a fixed number of steps: it has no time limit"
            )


def anytime(config: AnytimeConfig) -> dict[str, Any]:
    """Run the study."""
    points: list[dict[str, Any]] = []
    for checkpoint in (config.checkpoints or bundled_for(config.env)).split(","):
        for limit in sorted(config.limits):
            found = evaluate(
                EvaluateConfig(
                    config.env,
                    config.env_kwargs,
                    checkpoint,
                    config.planner,
                    dataclasses.replace(config.agent, budget_ms=limit),
                    device=config.device,
                    episodes=config.episodes,
                    seed=config.seed,
                    budget_steps=config.budget_steps,
                    batch=1,
                    random_episodes=0,
                    ceiling=CeilingConfig(episodes=0),
                    timed_plans=1,
                )
            )
            keys = ("success_any", "success_final", "decisions")
            points.append(
                {"checkpoint": checkpoint, "limit": limit, **{key: found[key] for key in keys}}
            )
    return {
        "env": config.env,
        "planner": config.planner.name,
        "episodes": config.episodes,
        "seed": config.seed,
        "threads": torch.get_num_threads(),
        "points": points,
    }


def draw(result: dict[str, Any]) -> bytes:
    """A PNG: success against the limit, with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    names = list(dict.fromkeys(point["checkpoint"] for point in result["points"]))
    for number, name in enumerate(names):
        chosen = [point for point in result["points"] if point["checkpoint"] == name]
        limits, colour = [point["limit"] for point in chosen], COLOURS[number % len(COLOURS)]
        rate, low, high = (
            100 * np.array([point["success_any"][key] for point in chosen])
            for key in ("rate", "low", "high")
        )
        axes.plot(limits, rate, "o-", color=colour, label=name)
        axes.fill_between(limits, low, high, color=colour, alpha=0.15, lw=0)
    ticks = sorted({point["limit"] for point in result["points"]})
    axes.set(xscale="log", xticks=ticks, xticklabels=[f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="milliseconds for a decision", ylabel="success at any time, %", ylim=(0, 101))
    axes.set_title(
        f"{result['env']}, {result['planner']}, {result['episodes']} episodes, "
        f"{result['threads']} threads",
        fontsize=9,
    )
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    return as_png(figure)


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = [
        f"{result['env']}, {result['planner']}, {result['episodes']} episodes, "
        f"{result['threads']} threads",
        "",
        "| | limit, ms | success at any time | at the end | p50 ms | p99 ms | model steps |",
        "|---|---:|---|---|---:|---:|---:|",
    ]
    for point in result["points"]:
        made = point["decisions"]
        cells = [point["checkpoint"], f"{point['limit']:g}"]
        cells += [in_percent(point[key]) for key in ("success_any", "success_final")]
        cells += [f"{made['ms'][key]:.1f}" for key in ("p50", "p99")]
        rows.append(f"| {' | '.join(cells)} | {made['model_calls']['p50']:.0f} |")
    return "\n".join(rows)


STUDY = Study(AnytimeConfig, anytime, table, draw)
