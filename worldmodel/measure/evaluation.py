"""How often an agent reaches its goals: the one protocol behind every success rate.

Starts and goals are held out. Every episode runs to the end of a fixed budget of environment steps;
success at any time and at the end comes with Wilson 95 % intervals. The same tasks under random
actions give the floor, and planning some of them on the true simulator gives the ceiling. The agent
sees pixels and proprio only, never the simulator's state or whether it has succeeded.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

import planners
from envs.task import Task, task_of
from planners import Budget
from worldmodel.agent import Agent
from worldmodel.cli.device import pick_device
from worldmodel.control.config import AgentConfig, PlannerConfig
from worldmodel.control.guardrails import Rule, parse_rules, permitted
from worldmodel.control.hold import task_hold
from worldmodel.data.environments import VIEW_FLAGS
from worldmodel.data.images import load_image
from worldmodel.errors import UserError
from worldmodel.measure.ceiling import (
    FEW,
    CeilingConfig,
    SimulatorPlanner,
    rank_correlation,
    run_ceiling,
)
from worldmodel.measure.environments import check_fits, chosen_kwargs
from worldmodel.measure.evaluation_table import default_label
from worldmodel.measure.gallery import agent_view, save_failures
from worldmodel.measure.guardrail_metrics import margin_coverage, violation_metrics
from worldmodel.measure.outcomes import Outcomes, measure_outcomes
from worldmodel.measure.rollouts import RolloutLog, env_copies, run_agent, run_random
from worldmodel.measure.statistics import mean_interval, percentiles, rate_interval
from worldmodel.measure.tasks import GoalTask, begin, render_goal, sample_tasks
from worldmodel.models.checkpoint import bundled_for, load_checkpoint
from worldmodel.models.decoder import load_decoder

Array = NDArray[Any]


@dataclass(frozen=True)
class EvaluateConfig:
    """What to evaluate, and how."""

    SHORT: ClassVar = {"planner": "planner.name", "guardrail": "agent.guardrails", **VIEW_FLAGS}

    env: str
    """Gymnasium id, such as worldmodel/PushT-v0."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, as --env_kwargs.layout U; default: the checkpoint's."""
    checkpoint: str | None = None
    """Bundled name, folder or hf:USER/NAME; default: the one bundled for the environment."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """Which planner searches. --planner mppi is short for --planner.name mppi."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """How the agent plans and acts. Tasks that begin or end within the margin of a guardrail are
    left out."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    episodes: int = 200
    """Number of tasks."""
    seed: int = 0
    """Seed of tasks, planner and random actions."""
    seeds: int = 1
    """Number of seeds, from `seed` on, that share the episodes; each has its own tasks."""
    variation: str | None = None
    """What the environment changes in every episode, such as background or background,light."""
    budget_steps: int = 50
    """Environment steps of every episode."""
    goal_offset: int = 25
    """How many environment steps ahead the goals lie, where the task samples goals so."""
    goal: Path | None = None
    """Image of the environment's own goal, where --success is its own word; default: goals come
    from exploration."""
    batch: int = 20
    """Episodes planned together."""
    judged: list[str] = field(default_factory=list)
    """Guardrails that plans need not satisfy, but that are measured; may be given again."""
    across: bool = False
    """Only tasks whose straight line from start to goal violates a guardrail."""
    unguarded: bool = False
    """Plan without the guardrails, on the same tasks, and measure their violations."""
    random_episodes: int | None = None
    """Tasks for the random floor; default: all; 0 for none."""
    ceiling: CeilingConfig = field(default_factory=CeilingConfig)
    """Planning on the true simulator."""
    timed_plans: int = 20
    """Plans of a single episode that are timed."""
    label: str | None = None
    """Name of the result in tables; default: the environment and the settings."""
    out: Path | None = None
    """JSON file to write."""
    failures: Path | None = None
    """Folder for animations of the ten worst episodes."""
    record: str | None = None
    """Name under which the checkpoint keeps the result."""

    def __post_init__(self) -> None:
        for name in ("episodes", "seeds", "budget_steps", "batch", "timed_plans"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        parse_rules([*self.agent.guardrails, *self.judged])
        if self.agent.budget_ms is not None and self.batch > 1:
            raise UserError(
                f"agent.budget_ms is {self.agent.budget_ms}, but {self.batch} episodes are planned "
                "together: time one robot, with --batch 1"
            )
        if self.episodes % self.seeds:
            raise UserError(
                f"{self.episodes} episodes cannot be shared by {self.seeds} seeds: use a multiple"
            )
        few = {"random_episodes": self.random_episodes or 0}
        few["ceiling.episodes"] = self.ceiling.episodes or 0
        for name, count in few.items():
            if not 0 <= count <= self.episodes:
                raise UserError(f"{name} is {count}: it must be 0 to {self.episodes} (episodes)")

    @property
    def variations(self) -> tuple[str, ...]:
        """The names in `variation`."""
        return tuple(self.variation.split(",")) if self.variation else ()


@dataclass(frozen=True)
class AgentEpisodes:
    """The episodes of an agent: tasks, states ``[steps + 1, Ds]`` each, outcomes, and its log."""

    tasks: list[GoalTask]
    paths: list[Array]
    outcomes: Outcomes
    log: RolloutLog


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Run the protocol.

    Returns:
        The result that ``--out`` stores.

    Raises:
        UserError: the checkpoint does not fit the environment, or another error in `config`.
    """
    checkpoint = config.checkpoint or bundled_for(config.env)
    device = pick_device(config.device)
    model, encoder, info = load_checkpoint(checkpoint)
    parts = model.to(device), encoder.to(device), info
    env_kwargs = chosen_kwargs(config.env_kwargs, info.env_kwargs)
    count = min(config.batch, config.episodes)
    with env_copies(config.env, env_kwargs, info.image_size, count) as envs:
        check_fits(envs[0], info)
        config = _checked(config, envs[0])
        planner, hold = config.planner.make(), task_hold(envs[0])
        agent = Agent(*parts, planner, config.agent, hold)
        rules = [r for r in (*agent.rules, *parse_rules(config.judged)) if r.decided_by_states]
        if config.unguarded:
            unguarded = dataclasses.replace(config.agent, guardrails=())
            agent = Agent(*parts, planner, unguarded, hold)
        tasks = _sample_seeds(config, envs[0], rules, info.fit)
        timings = time_plans(agent, envs[0], tasks[config.seed][0], config.timed_plans)
        episodes = _run_seeds(config, agent, envs, tasks)
        result = {
            **_description(config, checkpoint, envs[0]),
            **_success(config, episodes.outcomes),
            "random": None,
            "ceiling": None,
            **timings,
            "decisions": _decisions(episodes.log) if count == 1 else None,
            "env_metrics": episodes.outcomes.metric_intervals(),
            "settings": _settings(config, agent, env_kwargs, count),
        }
        if config.agent.alarm:
            result["alarms"] = _alarms(episodes.log)
        if rules:
            result["guardrails"] = _guardrails(agent, rules, envs[0], episodes)
        if config.failures is not None:
            decoder = load_decoder(checkpoint, model, info)
            view = functools.partial(agent_view, envs[0], rules, episodes.log, agent, decoder)
            save_failures(
                config.failures,
                envs[0],
                episodes.paths,
                episodes.tasks,
                episodes.outcomes,
                config.variations,
                view,
            )
        _add_floor(result, config, envs[0], episodes.tasks)
        _add_ceiling(result, config, agent, rules, envs[0], episodes.tasks)
    result["label"] = config.label or default_label(result)
    return result


# ------------------------------------------------------------------------------------- episodes
def _checked(config: EvaluateConfig, env: gym.Env[Any, Any]) -> EvaluateConfig:
    """The config, without a ceiling where the simulator's state cannot be set.

    Raises:
        UserError: before the work, what would fail after it.
    """
    try:
        env.reset(options={"variation": config.variations})
    except ValueError as error:
        raise UserError(str(error)) from None
    task = task_of(env)
    if not task.settable:
        if config.failures is not None:
            raise UserError("--failures draws states, and those of this environment cannot be set")
        if config.ceiling.episodes != 0:
            print("no ceiling: this environment cannot be set to a state", file=sys.stderr)
        return dataclasses.replace(config, ceiling=CeilingConfig(episodes=0))
    if config.ceiling.episodes != 0 and type(task).distance is Task.distance:
        raise UserError(f"{config.env} has no distance(): use --ceiling.episodes 0")
    return config


def _sample_seeds(
    config: EvaluateConfig, env: gym.Env[Any, Any], rules: list[Rule], fit: str
) -> dict[int, list[GoalTask]]:
    """The tasks of each seed."""
    allowed = functools.partial(permitted, rules, task_of(env), across=config.across)
    size = env.observation_space["pixels"].shape[0]  # type: ignore[index]
    image = None if config.goal is None else load_image(config.goal, size, fit)
    share = config.episodes // config.seeds
    return {
        seed: sample_tasks(env, share, seed, config.goal_offset, allowed, image)
        for seed in range(config.seed, config.seed + config.seeds)
    }


def _run_seeds(
    config: EvaluateConfig,
    agent: Agent,
    envs: list[gym.Env[Any, Any]],
    tasks_of_seeds: dict[int, list[GoalTask]],
) -> AgentEpisodes:
    """Run the agent on the tasks of each seed."""
    log = RolloutLog(keep_latents=config.failures is not None)
    paths: list[Array] = []
    for seed, tasks in tasks_of_seeds.items():
        paths += run_agent(agent, envs, tasks, config.budget_steps, seed, config.variations, log)
    all_tasks = [task for tasks in tasks_of_seeds.values() for task in tasks]
    return AgentEpisodes(all_tasks, paths, measure_outcomes(envs[0], paths, all_tasks), log)


def time_plans(agent: Agent, env: gym.Env[Any, Any], task: GoalTask, count: int) -> dict[str, Any]:
    """Wall time of planning for one robot. A batch of episodes would share the costs.

    Args:
        agent: the agent.
        env: the environment.
        task: a start and a goal.
        count: plans to time, each after a reset; one more comes first, to warm up.

    Returns:
        ``plan_ms`` (with encoding the frame) and ``encode_ms``, as `percentiles`, and
        ``model_calls_per_plan``.
    """
    obs, _ = begin(env, task, ())
    goal = render_goal(env, task)
    plan_ms, encode_ms = [], []
    for number in range(count + 1):
        agent.reset(goal, seed=number)
        begun = time.perf_counter()
        agent.act(obs)
        if number:
            plan_ms.append((time.perf_counter() - begun) * 1e3)
            encode_ms.append(agent.last_timings["encode_ms"])
    assert agent.last_plan is not None
    return {
        "plan_ms": percentiles(plan_ms),
        "encode_ms": percentiles(encode_ms),
        "model_calls_per_plan": agent.last_plan.model_calls,
    }


# ------------------------------------------------------------------------- parts of the result
def _description(config: EvaluateConfig, checkpoint: str, env: gym.Env[Any, Any]) -> dict[str, Any]:
    """What was evaluated, on which tasks."""
    cut = config.goal is None  # goals from exploration
    return {
        "label": config.label,
        "env": config.env,
        "checkpoint": checkpoint,
        "planner": config.planner.name,
        "episodes": config.episodes,
        "seed": config.seed,
        "seeds": config.seeds,
        "variation": list(config.variations),
        "budget_steps": config.budget_steps,
        "goal_offset": config.goal_offset if cut and task_of(env).goal_offset_matters else None,
        **({} if cut else {"goal": str(config.goal)}),
    }


def _success(config: EvaluateConfig, outcomes: Outcomes) -> dict[str, Any]:
    """Success of all episodes, and of each seed."""
    both = {"success_any": outcomes.success_any, "success_final": outcomes.success_final}
    return {
        **{name: rate_interval(values) for name, values in both.items()},
        "per_seed": {
            name: values.reshape(config.seeds, -1).mean(1).tolist() for name, values in both.items()
        },
    }


def _decisions(log: RolloutLog) -> dict[str, Any]:
    """Time and model steps of all decisions of a single robot."""
    return {
        "count": len(log.decision_ms),
        "ms": percentiles(log.decision_ms),
        "model_calls": percentiles(log.model_calls),
    }


def _alarms(log: RolloutLog) -> dict[str, Any]:
    """How often the agent was surprised."""
    surprised = np.array(log.surprised)
    return {
        "per_step": rate_interval(surprised.ravel()),
        "per_episode": rate_interval(np.any(surprised, 1)),
    }


def _guardrails(
    agent: Agent, rules: list[Rule], env: gym.Env[Any, Any], episodes: AgentEpisodes
) -> dict[str, Any]:
    """Violations, stops, interventions and the coverage of margins."""
    task, log = task_of(env), episodes.log
    return {
        **violation_metrics(rules, task, episodes.paths, episodes.outcomes),
        "stop_rate": mean_interval(np.mean(log.stopped, 1)),
        "intervention_rate": mean_interval(np.mean(log.intervened, 1)),
        "covered": margin_coverage(agent.rules, task, episodes.paths, log, agent.frameskip),
    }


def _settings(
    config: EvaluateConfig, agent: Agent, env_kwargs: dict[str, Any], batch: int
) -> dict[str, Any]:
    """All settings, with the checkpoint's values in place of None."""
    settings = dataclasses.asdict(agent.config)
    del settings["seed"]  # each batch has its own, derived from the result's seed
    settings |= {
        "horizon": agent.horizon,
        "execute": agent.execute,
        "action_repeat": agent.layout.repeat,
        "samples": agent.budget.samples,
        "iterations": agent.budget.iterations,
        "guardrails": list(config.agent.guardrails),
        "bfloat16": agent.inference.bfloat16,
    }
    return {
        "env_kwargs": env_kwargs,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "device": str(agent.device),
        "timed_plans": config.timed_plans,
        "judged": config.judged,
        "unguarded": config.unguarded,
        "across": config.across,
        "planner": dataclasses.asdict(config.planner),
        "agent": settings,
    }


# ---------------------------------------------------------------------------- floor and ceiling
def _reference(outcomes: Outcomes) -> dict[str, Any]:
    """Success of the floor or the ceiling: at any time, and ``final``."""
    return {
        **rate_interval(outcomes.success_any),
        "final": rate_interval(outcomes.success_final),
        "episodes": len(outcomes.success_any),
    }


def _add_metrics(result: dict[str, Any], prefix: str, outcomes: Outcomes) -> None:
    """Add the task's metrics to ``env_metrics``."""
    for name, interval in outcomes.metric_intervals().items():
        result["env_metrics"][f"{prefix}_{name}"] = interval


def _add_floor(
    result: dict[str, Any], config: EvaluateConfig, env: gym.Env[Any, Any], tasks: list[GoalTask]
) -> None:
    """Add the success of random actions on the first tasks."""
    count = config.episodes if config.random_episodes is None else config.random_episodes
    if not count:
        return
    tasks = tasks[:count]
    paths = run_random(env, tasks, config.budget_steps, config.seed, config.variations)
    outcomes = measure_outcomes(env, paths, tasks)
    result["random"] = _reference(outcomes)
    _add_metrics(result, "random", outcomes)


def _add_ceiling(
    result: dict[str, Any],
    config: EvaluateConfig,
    agent: Agent,
    rules: list[Rule],
    env: gym.Env[Any, Any],
    tasks: list[GoalTask],
) -> None:
    """Add the success of planning on the simulator, and how well the model ranks plans."""
    if config.ceiling.episodes == 0:
        return
    tasks = tasks[: config.ceiling.episodes or FEW]
    # A simulator has no gradient: CEM stands in for the gradient planner.
    name = "cem" if config.planner.name == "gradient" else config.planner.name
    planner = planners.make(name)
    budget = Budget(config.ceiling.samples, config.ceiling.iterations)
    episodes = tasks, config.budget_steps, config.seed, config.variations
    if config.ceiling.cost == "latents":
        settings = dataclasses.replace(
            agent.config, samples=budget.samples, iterations=budget.iterations
        )
        on_simulator = Agent(
            agent.model, agent.encoder, agent.info, planner, settings, task_hold(env)
        )
        on_simulator.planner = SimulatorPlanner(planner, on_simulator, env)
        paths = run_agent(on_simulator, [env], *episodes)
    else:
        paths = run_ceiling(agent, planner, budget, env, *episodes)
    outcomes = measure_outcomes(env, paths, tasks)
    ranks = rank_correlation(agent, env, tasks, config.seed, config.variations)
    result["ceiling"] = {
        **_reference(outcomes),
        "planner": name,
        **{key: getattr(config.ceiling, key) for key in ("samples", "iterations", "cost")},
        "rank_correlation": mean_interval(ranks),
    }
    if rules:
        result["ceiling"]["guardrails"] = violation_metrics(rules, task_of(env), paths, outcomes)
    _add_metrics(result, "ceiling", outcomes)
