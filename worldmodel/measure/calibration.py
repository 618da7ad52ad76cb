"""How far imagined plans must stay from a guardrail, so that real ones keep it.

    python -m worldmodel.calibrate --env worldmodel/PushT-v0 --guardrail no_go:disc=0.25:0.25:0.06

Split conformal prediction (Vovk et al. 2005), with one score per episode: the planner works on
fresh tasks with the guardrail, and the score is the worst gap, over the steps it carried out,
between how deep the breach really was and how deep it was imagined. The margin is the score that a
share `level` of episodes exceeds, with the correction for finitely many of them. So, of episodes
like these, a share of at most `level` breaks the guardrail. Like these: planned with another
margin, they would be others. Therefore there are rounds, each with fresh tasks and the margin found
before.

The margin is kept with the checkpoint, under a hash of all that it depends on, for
``margin=calibrated``.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.task import task_of
from worldmodel.agent import Agent, AgentConfig, make_planner
from worldmodel.cli import atomic_write_json, parse_config
from worldmodel.cli import run as run_command
from worldmodel.control.guardrails import parse_rules, permitted
from worldmodel.errors import UserError
from worldmodel.measure.environments import check_fits, make_env
from worldmodel.measure.evaluation import Watch, episode_scores, run_agent
from worldmodel.measure.statistics import rate_interval
from worldmodel.measure.tasks import sample_tasks
from worldmodel.models.checkpoint import bundled_for, load_checkpoint, write_finding

Array = NDArray[Any]


@dataclass(frozen=True)
class CalibrateConfig:
    """What to calibrate, and how. Settings of the planner are those it will be used with."""

    env: str
    """Gymnasium id, such as worldmodel/PushT-v0."""
    guardrail: list[str] = field(default_factory=list)
    """Guardrails to calibrate, one by one, as no_go:x=0.1:0.3,y=0:0.2; may be given again."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment; default: the checkpoint's."""
    checkpoint: str | None = None
    """Bundled name or folder; default: the one bundled for the environment."""
    planner: str = "cem"
    """cem, mppi, cmaes or gradient."""
    planner_options: dict[str, Any] = field(default_factory=dict)
    """Options of the planner's class."""
    samples: int | None = None
    """Candidates per iteration; default: the checkpoint's."""
    iterations: int | None = None
    """Iterations; default: the checkpoint's."""
    level: float = 0.05
    """Share of episodes that may break the guardrail."""
    episodes: int = 100
    """Tasks per round."""
    rounds: int = 2
    """Each with the margin of the one before, the first with none."""
    budget_steps: int = 50
    """Environment steps of every episode."""
    goal_offset: int = 25
    """How many environment steps ahead the goals lie (Push-T)."""
    seed: int = 1000
    """Of the first round's tasks; use others than you evaluate with."""
    across: bool = False
    """Only tasks whose straight way from start to goal breaks the guardrail."""
    batch: int = 20
    """Episodes planned together."""
    out: Path | None = None
    """JSON file to write."""

    def __post_init__(self) -> None:
        if not self.guardrail:
            raise UserError("there is nothing to calibrate: give at least one --guardrail")
        for rule in parse_rules(self.guardrail):
            if rule.tier == 1:
                raise UserError(f"guardrail {rule.text!r} is kept exactly: it needs no margin")
        for name in ("episodes", "rounds", "budget_steps", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        conformal_margin(np.zeros(self.episodes), self.level)  # whether they are enough


def conformal_margin(scores: Array, level: float) -> float:
    """What a share of at most `level` of further scores exceeds, expected over draws like these.

    Raises:
        UserError: `level` is none, or the scores ``[n]`` are too few for it.
    """
    if not 0 < level < 1:
        raise UserError(f"level is {level}: it must lie between 0 and 1")
    place = math.ceil((len(scores) + 1) * (1 - level) - 1e-9)
    if place > len(scores):
        needed = math.ceil(1 / level - 1 - 1e-9)
        raise UserError(
            f"{len(scores)} episodes are too few for the level {level:g}: use {needed} or more"
        )
    return float(np.sort(scores)[place - 1])


def calibrate(config: CalibrateConfig) -> dict[str, Any]:
    """Run the rounds of each guardrail; returns, and keeps with the checkpoint, what they found.

    Raises:
        UserError: the checkpoint is not for this environment, or anything else in `config`.
    """
    checkpoint = config.checkpoint or bundled_for(config.env)
    model, encoder, info = load_checkpoint(checkpoint)
    planner = make_planner(config.planner, **config.planner_options)
    kwargs = config.env_kwargs or info.env_kwargs
    count = min(config.batch, config.episodes)
    envs = [make_env(config.env, kwargs, info.image_size) for _ in range(count)]
    found: dict[str, Any] = {}
    try:
        check_fits(envs[0], info)
        task = task_of(envs[0])
        for rule in parse_rules(config.guardrail):
            margin, rounds = 0.0, []
            for number in range(config.rounds):
                text = f"{rule.bare},margin={margin!r}"
                settings = AgentConfig(
                    samples=config.samples, iterations=config.iterations, guardrails=(text,)
                )
                agent = Agent(model, encoder, info, planner, settings)
                (tried,) = agent.rules
                allowed = functools.partial(permitted, [tried], task, across=config.across)
                seed = config.seed + number
                tasks = sample_tasks(envs[0], config.episodes, seed, config.goal_offset, allowed)
                watch = Watch()
                paths = run_agent(agent, envs, tasks, config.budget_steps, seed, watch=watch)
                scores = episode_scores(tried, 0, task, paths, watch, agent.frameskip)
                broken = tried.violation(task, np.stack(paths)).max(1) > 0
                rounds.append({"margin": margin, "seed": seed, "broken": rate_interval(broken)})
                margin = max(0.0, conformal_margin(scores, config.level))
            found[agent.calibration_key(rule)] = {
                "guardrail": rule.bare,
                "margin": margin,
                "level": config.level,
                "episodes": config.episodes,
                "planner": config.planner,
                "across": config.across,
                "rounds": rounds,
            }
    finally:
        for env in envs:
            env.close()
    write_finding(checkpoint, "calibration", {**info.calibration, **found})
    return found


def table(found: dict[str, Any]) -> str:
    """What was found, as a Markdown table."""
    rows = [
        "| guardrail | level | margin | broken in the rounds before, at their margin |",
        "|---" * 4 + "|",
    ]
    for each in found.values():
        before = "; ".join(
            f"{100 * r['broken']['rate']:.1f} % with the margin {r['margin']:.4f}"
            for r in each["rounds"]
        )
        rows.append(
            f"| {each['guardrail']} | {each['level']:g} | {each['margin']:.4f} | {before} |"
        )
    return "\n".join(rows)


@run_command
def main(argv: list[str] | None = None) -> None:
    """Calibrate, print a table, keep the margins."""
    config = parse_config(
        CalibrateConfig, argv, "worldmodel.calibrate", "Set the margins of guardrails."
    )
    if config.out is not None and not config.out.parent.is_dir():
        raise UserError(f"cannot write {config.out}: there is no folder {config.out.parent}")
    found = calibrate(config)
    if config.out is not None:
        atomic_write_json(config.out, found)
    print(table(found))
