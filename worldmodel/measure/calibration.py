"""Margins of learned guardrails by conformal prediction.

Split conformal prediction (Vovk et al. 2005) with one score per episode. The planner works on fresh
tasks under the guardrail; the score is the largest gap, over executed steps, between true and
predicted violation. The margin is the score that a share `level` of episodes exceeds, with the
correction for a finite number of them. So a share of at most `level` of further episodes violates
the guardrail, as long as they come from the same distribution. As the margin changes how the
planner acts, there are several rounds, each with fresh tasks and the margin of the round before.

The margin is stored with the checkpoint under a hash of all that it depends on; the rule's option
``margin=calibrated`` looks it up.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.task import task_of
from worldmodel.agent import Agent
from worldmodel.cli.device import pick_device
from worldmodel.control.config import AgentConfig, PlannerConfig
from worldmodel.control.guardrails import Rule, parse_rules, permitted
from worldmodel.control.hold import task_hold
from worldmodel.data.environments import VIEW_FLAGS
from worldmodel.errors import UserError
from worldmodel.measure.environments import check_fits, chosen_kwargs
from worldmodel.measure.guardrail_metrics import prediction_gaps
from worldmodel.measure.rollouts import RolloutLog, env_copies, run_agent
from worldmodel.measure.statistics import rate_interval
from worldmodel.measure.tasks import sample_tasks
from worldmodel.models.checkpoint import bundled_for, load_checkpoint, write_finding

Array = NDArray[Any]


@dataclass(frozen=True)
class CalibrateConfig:
    """What to calibrate. Planner and agent must have the settings of later use."""

    SHORT: ClassVar = {"planner": "planner.name", **VIEW_FLAGS}

    env: str
    """Gymnasium id, such as worldmodel/PushT-v0."""
    guardrail: list[str] = field(default_factory=list)
    """Guardrails to calibrate, one by one, as no_go:x=0.1:0.3,y=0:0.2; may be given again."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment; default: the checkpoint's."""
    checkpoint: str | None = None
    """Bundled name, folder or hf:USER/NAME; default: the one bundled for the environment."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """Which planner searches. --planner mppi is short for --planner.name mppi."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """How the agent plans and acts."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    level: float = 0.05
    """Share of episodes that may violate the guardrail."""
    episodes: int = 100
    """Tasks of a round."""
    rounds: int = 2
    """Rounds; the first has no margin, each further one that of the round before."""
    budget_steps: int = 50
    """Environment steps of every episode."""
    goal_offset: int = 25
    """How many environment steps ahead the goals lie, where the task samples goals so."""
    seed: int = 1000
    """Seed of the first round's tasks; evaluate with others."""
    across: bool = False
    """Only tasks whose straight line from start to goal violates the guardrail."""
    batch: int = 20
    """Episodes planned together."""
    out: Path | None = None
    """JSON file to write."""

    def __post_init__(self) -> None:
        if not self.guardrail:
            raise UserError("there is nothing to calibrate: give at least one --guardrail")
        if self.agent.guardrails:
            raise UserError("agent.guardrails is set: give the guardrails as --guardrail")
        for rule in parse_rules(self.guardrail):
            if rule.tier == 1:
                raise UserError(f"guardrail {rule.text!r} is kept exactly: it needs no margin")
        for name in ("episodes", "rounds", "budget_steps", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        conformal_margin(np.zeros(self.episodes), self.level)  # raises if they are too few


def conformal_margin(scores: Array, level: float) -> float:
    """The bound that a further score exceeds with a probability of at most `level`.

    Args:
        scores: of the episodes of a round ``[n]``.
        level: above 0 and below 1.

    Raises:
        UserError: `level` is out of range, or the scores are too few for it.
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
    """Calibrate each guardrail and store the margins with the checkpoint.

    Returns:
        The margins, under the hash of all that they depend on.

    Raises:
        UserError: the checkpoint does not fit the environment, or another error in `config`.
    """
    checkpoint = config.checkpoint or bundled_for(config.env)
    device = pick_device(config.device)
    model, encoder, info = load_checkpoint(checkpoint)
    parts = model.to(device), encoder.to(device), info

    def make_agent(rule: str, env: gym.Env[Any, Any]) -> Agent:
        settings = dataclasses.replace(config.agent, guardrails=(rule,))
        return Agent(*parts, config.planner.make(), settings, task_hold(env))

    env_kwargs = chosen_kwargs(config.env_kwargs, info.env_kwargs)
    count = min(config.batch, config.episodes)
    found: dict[str, Any] = {}
    with env_copies(config.env, env_kwargs, info.image_size, count) as envs:
        check_fits(envs[0], info)
        for rule in parse_rules(config.guardrail):
            margin, rounds = 0.0, []
            for number in range(config.rounds):
                agent = make_agent(f"{rule.bare},margin={margin!r}", envs[0])
                scores, violated = _round(config, agent, envs, config.seed + number)
                rounds.append(
                    {
                        "margin": margin,
                        "seed": config.seed + number,
                        "violation_per_episode": rate_interval(violated),
                    }
                )
                margin = max(0.0, conformal_margin(scores, config.level))
            found[agent.calibration_key(rule)] = _entry(config, rule, margin, rounds)
    write_finding(checkpoint, "calibration", {**info.calibration, **found})
    return found


def _round(
    config: CalibrateConfig, agent: Agent, envs: list[gym.Env[Any, Any]], seed: int
) -> tuple[Array, Array]:
    """The score ``[n]`` of each episode of a round, and whether it violated the guardrail."""
    (rule,) = agent.rules
    task = task_of(envs[0])
    allowed = functools.partial(permitted, [rule], task, across=config.across)
    tasks = sample_tasks(envs[0], config.episodes, seed, config.goal_offset, allowed)
    log = RolloutLog()
    paths = run_agent(agent, envs, tasks, config.budget_steps, seed, log=log)
    scores = prediction_gaps(rule, 0, task, paths, log, agent.frameskip)
    return scores, rule.violation(task, np.stack(paths)).max(1) > 0


def _entry(
    config: CalibrateConfig, rule: Rule, margin: float, rounds: list[dict[str, Any]]
) -> dict[str, Any]:
    """What is stored of one guardrail."""
    return {
        "guardrail": rule.bare,
        "margin": margin,
        "level": config.level,
        "episodes": config.episodes,
        "planner": config.planner.name,
        "across": config.across,
        "rounds": rounds,
    }


def calibration_table(margins: Iterable[dict[str, Any]]) -> str:
    """What `calibrate` found of each guardrail, as a Markdown table."""
    rows = ["| guardrail | level | margin | violated in the rounds before |", "|---" * 4 + "|"]
    for each in margins:
        before = "; ".join(
            f"{100 * r['violation_per_episode']['rate']:.1f} % with margin {r['margin']:.4f}"
            for r in each["rounds"]
        )
        rows.append(
            f"| {each['guardrail']} | {each['level']:g} | {each['margin']:.4f} | {before} |"
        )
    return "\n".join(rows)
