"""How often an agent reaches its goals: the one protocol behind every number in this project.

    python -m worldmodel.evaluate --env worldmodel/PushT-v0 --episodes 200 --out result.json

Held-out starts and goals, a fixed budget of environment steps, success at any time and at the end
with Wilson 95 % intervals; beside it the same tasks under random actions (the floor), and a few of
them planned on the true simulator with the judge's own distance (the ceiling). The agent sees
pixels and proprio only, and never hears of success: every episode runs to the end of its budget.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

import planners
from envs.exploration import explorer
from envs.task import Task, task_of
from planners import Budget, Planner, Problem, Trajectory
from worldmodel.agent import Agent, AgentConfig, make_planner
from worldmodel.cli import Progress, atomic_write_json, parse_config, writable_folder
from worldmodel.cli import progress as show_progress
from worldmodel.cli import run as run_command
from worldmodel.control.guardrails import Rule, action_limits, parse_rules, permitted
from worldmodel.control.objective import ObjectiveConfig
from worldmodel.errors import UserError
from worldmodel.measure.acting import drawn_regions
from worldmodel.measure.environments import check_fits, make_env
from worldmodel.measure.evaluation_table import table
from worldmodel.measure.film import Imagination
from worldmodel.measure.gallery import save_failures
from worldmodel.measure.outcomes import Outcomes, measure_outcomes, task_distance
from worldmodel.measure.statistics import mean_interval, percentiles, rate_interval, spearman
from worldmodel.measure.tasks import GoalTask, begin, render, sample_tasks
from worldmodel.models.checkpoint import bundled_for, load_checkpoint, record_evaluation
from worldmodel.models.decoder import load_decoder

Array = NDArray[Any]


@dataclass(frozen=True)
class EvaluateConfig:
    """What to evaluate, and how."""

    env: str
    """Gymnasium id, such as worldmodel/PushT-v0."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, as --env_kwargs.layout U; default: the checkpoint's."""
    checkpoint: str | None = None
    """Bundled name or folder; default: the one bundled for the environment."""
    planner: str = "cem"
    """cem, mppi, cmaes or gradient."""
    planner_options: dict[str, Any] = field(default_factory=dict)
    """Options of the planner's class, as --planner_options.beta 2."""
    episodes: int = 200
    """Tasks."""
    seed: int = 0
    """Of tasks, planner and random actions."""
    seeds: int = 1
    """How many seeds, from `seed` on, share the episodes: each has its own tasks and planning."""
    variation: str | None = None
    """What the environments change in every episode: background, object, light, camera or friction,
    or several of them, as background,light."""
    budget_steps: int = 50
    """Environment steps of every episode."""
    goal_offset: int = 25
    """How many environment steps ahead the goals lie (Push-T)."""
    samples: int | None = None
    """Candidates per iteration; default: the checkpoint's (gradient: its own)."""
    iterations: int | None = None
    """Iterations; default: the checkpoint's (gradient: its own)."""
    horizon: int | None = None
    """Model steps imagined; default: the checkpoint's."""
    execute: int | None = None
    """Environment steps carried out before planning again; default: one model step."""
    budget_ms: float | None = None
    """Milliseconds from what is seen to what is done, with --batch 1: planners that sample go on
    until then, or until they converge, unless --iterations are given."""
    patience: int | None = None
    """Iterations without progress after which a search has converged; default: 5 with --budget_ms,
    and else never."""
    max_memory_mb: float = AgentConfig.max_memory_mb
    """Megabytes that imagining may take, about."""
    proprio_weight: float = ObjectiveConfig.proprio_weight
    """Weight of the distance in proprio, once the goal is near."""
    near: float = ObjectiveConfig.near
    """Squared latent distance that is near, in units of the checkpoint's own."""
    time_weight: float = ObjectiveConfig.time_weight
    """Cost of a model step that passes before arriving, in units of `near`."""
    stay_weight: float = ObjectiveConfig.stay_weight
    """Weight of the distance at the horizon."""
    objective: Literal["arrival", "last"] = "arrival"
    """What a plan costs: the distance on arrival and more, or that at the horizon alone."""
    action_repeat: int | None = None
    """Primitive actions that share one planned value; default: the whole frameskip."""
    guardrail: list[str] = field(default_factory=list)
    """What no plan may break, as no_go:x=0.1:0.3,y=0:0.2 or max_speed:0.1; may be given again.
    Tasks that begin or end in breach, or nearer to it than the margin, are left out."""
    alarm: float = 0.0
    """p-value below which what is seen is a surprise, as 0.001; 0: not watched."""
    judged: list[str] = field(default_factory=list)
    """Guardrails that plans need not keep, but are judged by as well; may be given again."""
    across: bool = False
    """Only tasks whose straight way from start to goal breaks a guardrail."""
    unguarded: bool = False
    """Plan without the guardrails, but on the same tasks and judged by them: what they cost."""
    batch: int = 20
    """Episodes planned together."""
    random_episodes: int | None = None
    """Tasks for the random floor; default: all of them; 0 for none."""
    ceiling_episodes: int = 20
    """Tasks planned on the true simulator, which is slow; 0 for none."""
    ceiling_samples: int = 64
    """Candidates per iteration on the true simulator."""
    ceiling_iterations: int = 4
    """Iterations on the true simulator."""
    ceiling_cost: Literal["judge", "latents"] = "judge"
    """What is minimised there: the judge's distance, or the agent's own cost, from the images that
    the simulator would show. What is lost by the first is the planner's fault, by the second that
    of the latents, and the rest that of the predictor."""
    timed_plans: int = 20
    """Plans of a single episode that are timed."""
    out: Path | None = None
    """JSON file to write."""
    failures: Path | None = None
    """Folder for a gallery of the worst ten episodes, as GIFs with their numbers."""
    record: str | None = None
    """Name under which to keep the result in the checkpoint's config.json as well."""

    def __post_init__(self) -> None:
        for name in ("episodes", "seeds", "budget_steps", "batch", "timed_plans"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        parse_rules(self.guardrail + self.judged)
        if self.budget_ms is not None and self.batch > 1:
            raise UserError(
                f"budget_ms is {self.budget_ms}, but {self.batch} episodes are planned together: "
                "time one robot, with --batch 1"
            )
        if self.ceiling_samples < 1:
            raise UserError(f"ceiling_samples is {self.ceiling_samples}: it must be at least 1")
        if self.episodes % self.seeds:
            raise UserError(
                f"{self.episodes} episodes cannot be shared by {self.seeds} seeds: use a multiple"
            )
        for name in ("random_episodes", "ceiling_episodes"):
            if not 0 <= (getattr(self, name) or 0) <= self.episodes:
                raise UserError(
                    f"{name} is {getattr(self, name)}: it must be 0 to {self.episodes} (episodes)"
                )


# ------------------------------------------------------------------------- agent, floor, ceiling
@dataclass
class Watch:
    """What an agent did of its own accord in each step of each episode, bool ``[steps]`` each:
    whether it stood still without a plan, whether its action was not the plan's, and whether it was
    surprised. Of each plan that was made ``[plans]``: in which step, how far the goal was then in
    latents, what it expected of the guardrails ``[plans, T, G]``, and, if that is kept, what it
    imagined, latents ``[plans, T, P, D]``. And of the plans of all batches: milliseconds from what
    was seen to what was done, and model steps."""

    keep_imagined: bool = False
    stopped: list[Array] = field(default_factory=list)
    intervened: list[Array] = field(default_factory=list)
    surprised: list[Array] = field(default_factory=list)
    planned_at: list[Array] = field(default_factory=list)
    distances: list[Array] = field(default_factory=list)
    expected: list[Array] = field(default_factory=list)
    imagined: list[Array] = field(default_factory=list)
    decision_ms: list[float] = field(default_factory=list)
    model_calls: list[int] = field(default_factory=list)


def run_agent(
    agent: Agent,
    envs: Sequence[gym.Env[Any, Any]],
    tasks: Sequence[GoalTask],
    budget_steps: int,
    seed: int = 0,
    variation: Sequence[str] = (),
    watch: Watch | None = None,
) -> list[Array]:
    """Let `agent` work on the tasks, as many at once as there are environments.

    What it does of its own accord is added to `watch`.

    Returns:
        The states of each episode ``[budget_steps + 1, Ds]``: for the judge.
    """
    paths: list[Array] = []
    starts = range(0, len(tasks), len(envs))
    bar: Progress[int]
    with show_progress(None, len(tasks) * budget_steps, "episodes", "step") as bar:
        for number, start in enumerate(starts):
            batch = tasks[start : start + len(envs)]
            active = envs[: len(batch)]
            pairs = list(zip(active, batch, strict=True))
            seen = [begin(env, task, variation) for env, task in pairs]
            goals = [render(env, task.goal_state) for env, task in pairs]
            agent.reset(np.stack(goals), mix(seed, number), budget_steps)
            states = [[info["state"] for _, info in seen]]
            observations = [obs for obs, _ in seen]
            stopped, intervened, surprised = [], [], []
            planned_at, distances, expected, imagined = [], [], [], []
            plan = None
            for step in range(budget_steps):
                stacked = {k: np.stack([obs[k] for obs in observations]) for k in observations[0]}
                asked = time.perf_counter()
                actions = agent.act(stacked)
                if agent.last_plan is not None and agent.last_plan is not plan:
                    plan = agent.last_plan
                    if watch is not None:
                        watch.decision_ms.append(1e3 * (time.perf_counter() - asked))
                        watch.model_calls.append(plan.model_calls)
                    planned_at.append(step)
                    distances.append(agent.distance.numpy())
                    expected.append(plan.violations.cpu().numpy())
                    if watch is not None and watch.keep_imagined:
                        imagined.append(plan.trajectory.z.float().cpu().numpy())
                steps = [env.step(action) for env, action in zip(active, actions, strict=True)]
                observations = [step[0] for step in steps]
                states.append([step[4]["state"] for step in steps])
                stopped.append([reason is not None for reason in agent.stop_reasons])
                intervened.append(agent.intervened.tolist())
                surprised.append(agent.alarmed.tolist())
                bar.update(len(batch))
            paths += list(np.stack(states, 1))
            if watch is not None:
                watch.stopped += list(np.array(stopped).T)
                watch.intervened += list(np.array(intervened).T)
                watch.surprised += list(np.array(surprised).T)
                watch.planned_at += [np.array(planned_at)] * len(batch)
                watch.distances += list(np.stack(distances, 1)) if distances else []
                watch.expected += list(np.stack(expected, 1)) if expected else []
                watch.imagined += list(np.stack(imagined, 1)) if imagined else []
    return paths


def run_random(
    env: gym.Env[Any, Any],
    tasks: Sequence[GoalTask],
    budget_steps: int,
    seed: int,
    variation: Sequence[str] = (),
) -> list[Array]:
    """The states of random behaviour, which needs no camera: ``[budget_steps + 1, Ds]`` each."""
    world: Any = env.unwrapped
    paths = []
    for number, task in enumerate(show_progress(tasks, len(tasks), "random", "episode")):
        begin(env, task, variation)
        policy = explorer(env, "random", np.random.default_rng([seed, number]))
        actions = np.stack([policy(None, {}) for _ in range(budget_steps)])
        paths.append(world.physics(task.start_state, actions))
    return paths


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
    """The agent's loop with the simulator for a model and the judge's distance for a cost.

    What is left to gain by a perfect model and perfect features, with this planner and budget. The
    agent's guardrails hold here for every environment step.
    """
    world = task_of(env)
    horizon, frameskip = agent.horizon, agent.frameskip
    low, high = agent.low.double().cpu(), agent.high.double().cpu()
    objective = agent.config.objective.make(1.0)
    paths = []
    for number, task in enumerate(show_progress(tasks, len(tasks), "ceiling", "episode")):
        begin(env, task, variation)
        generator = torch.Generator().manual_seed(mix(seed, number))
        path, warm_start = [task.start_state], None
        last = torch.zeros(1, len(agent.model.action_low), dtype=torch.float64)

        while len(path) <= budget_steps:
            ends = budget_steps + 1 - len(path)

            def cost(
                trajectory: Trajectory,
                actions: torch.Tensor,
                task: GoalTask = task,
                ends: int = ends,
            ) -> torch.Tensor:
                apart = task_distance(env, trajectory.z[:, :, :, -1].numpy(), task.goal_state)
                return objective.cost(torch.from_numpy(apart), math.ceil(ends / frameskip))

            def rollout(actions: torch.Tensor, state: Array = path[-1]) -> Trajectory:
                chunks = agent.primitive(actions[0])  # [S, T, F*a]
                sequences = chunks.unflatten(-1, (frameskip, -1)).flatten(1, 2).numpy()
                states = [world.physics(state, sequence) for sequence in sequences]
                after = torch.from_numpy(np.stack(states)[:, 1:])
                return Trajectory(after.unflatten(1, (-1, frameskip))[None])  # [1, S, T, F, Ds]

            problem = Problem(
                rollout,
                cost,
                low,
                high,
                horizon,
                guardrails=tuple(
                    TrueGuardrail(rule, world, path[-1])
                    for rule in agent.rules
                    if rule.tier == 2 and rule.judgeable
                ),
                warm_start=warm_start,
                hold=agent.idle,
                limits=(limits := action_limits(agent.rules, last)),
            )
            plan = planner.plan(problem, budget, generator)
            now = agent.sequence(plan.actions)[0, : agent.execute]
            if not plan.feasible[0]:  # it brakes, as hard as it may
                now = torch.zeros_like(now)
                now = now if limits is None else limits.project(now[None])[0]
            last = now[-1:]
            path += list(world.physics(path[-1], now.numpy())[1:])
            warm_start = agent.left_over(plan.actions)
        paths.append(np.stack(path[: budget_steps + 1]))
    return paths


@dataclass(frozen=True)
class TrueGuardrail:
    """A rule over true states, those of every environment step: ``z`` is ``[1, S, T, F, Ds]``."""

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
        broken = self.rule.violation(self.task, np.concatenate([first, after], 1))
        return torch.from_numpy(broken).unflatten(1, (trajectory.z.shape[2], -1)).amax(2)[None]


class AgentOnSimulator(Agent):
    """The agent with the true simulator, and what it would show, in place of its predictor."""

    env: gym.Env[Any, Any]

    def problem(self, warm_start: torch.Tensor | None = None) -> Problem:
        world: Any = self.env.unwrapped
        now = world.get_state()

        def rollout(actions: torch.Tensor) -> Trajectory:
            sequences = self.primitive(actions[0]).unflatten(-1, (self.frameskip, -1)).flatten(1, 2)
            seen = [
                world.observe_state(state)
                for sequence in sequences.numpy()
                for state in world.physics(now, sequence)[self.frameskip :: self.frameskip]
            ]
            z = self._encode(np.stack([obs["pixels"] for obs in seen]))
            proprio = torch.from_numpy(np.stack([obs["proprio"] for obs in seen]))
            shape = (1, *actions.shape[1:3])
            return Trajectory(z.unflatten(0, shape), proprio.unflatten(0, shape))

        return dataclasses.replace(super().problem(warm_start), rollout=rollout)


def rank_correlation(
    agent: Agent,
    env: gym.Env[Any, Any],
    tasks: Sequence[GoalTask],
    seed: int,
    variation: Sequence[str] = (),
    candidates: int = 64,
) -> Array:
    """How alike the model and the truth rank plans, ``[n]``: at the start of each task, Spearman's
    correlation between what random plans cost as imagined and on the simulator, by the judge's
    distance. Planning well takes little more than this; 1 is a perfect model of a perfect cost."""
    world: Any = env.unwrapped
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
            imagined = problem.cost(problem.rollout(actions), actions)[0]
        paths = [
            world.physics(task.start_state, sequence)[agent.frameskip :: agent.frameskip]
            for sequence in agent.sequence(actions[0]).cpu().numpy()
        ]
        apart = torch.from_numpy(task_distance(env, np.stack(paths), task.goal_state))
        true = agent.config.objective.make(1.0).cost(apart)
        found.append(spearman(imagined.float().cpu(), true.cpu()))
    return np.array(found)


def time_plans(
    agent: Agent, env: gym.Env[Any, Any], task: GoalTask, count: int
) -> tuple[dict[str, float], dict[str, float], int]:
    """Wall time of planning for one episode: plan_ms and encode_ms (p50, p99), model calls a plan.

    Batched planning spreads its costs; a robot is alone, so `count` single plans are timed, each
    from a fresh start, after one to warm up. plan_ms includes encoding the frame.
    """
    obs, _ = begin(env, task, ())
    goal = render(env, task.goal_state)
    plan_ms, encode_ms = [], []
    for number in range(count + 1):
        agent.reset(goal, seed=number)
        begun = time.perf_counter()
        agent.act(obs)
        if number:
            plan_ms.append((time.perf_counter() - begun) * 1e3)
            encode_ms.append(agent.last_timings["encode_ms"])
    assert agent.last_plan is not None

    return percentiles(plan_ms), percentiles(encode_ms), agent.last_plan.model_calls


# --------------------------------------------------------------------------------- the protocol
def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Run the protocol; what it returns is what ``--out`` gets.

    Raises:
        UserError: the checkpoint is not for this environment, or anything else in `config`.
    """
    checkpoint = config.checkpoint or bundled_for(config.env)
    planner = make_planner(config.planner, **config.planner_options)
    settings = AgentConfig(
        horizon=config.horizon,
        execute=config.execute,
        samples=config.samples,
        iterations=config.iterations,
        budget_ms=config.budget_ms,
        patience=config.patience,
        max_memory_mb=config.max_memory_mb,
        guardrails=tuple(config.guardrail),
        alarm=config.alarm,
        objective=ObjectiveConfig(
            config.objective,
            config.near,
            config.proprio_weight,
            config.time_weight,
            config.stay_weight,
        ),
        action_repeat=config.action_repeat,
    )
    model, encoder, info = load_checkpoint(checkpoint)
    agent = Agent(model, encoder, info, planner, settings)
    rules = [r for r in (*agent.rules, *parse_rules(config.judged)) if r.judgeable]
    if config.unguarded:
        settings = dataclasses.replace(settings, guardrails=())
        agent = Agent(model, encoder, info, planner, settings)
    kwargs = config.env_kwargs or info.env_kwargs
    count = min(config.batch, config.episodes)
    envs = [make_env(config.env, kwargs, info.image_size) for _ in range(count)]
    try:
        check_fits(envs[0], info)
        variation = tuple(config.variation.split(",")) if config.variation else ()
        try:  # before the work
            envs[0].reset(options={"variation": variation})
        except ValueError as error:
            raise UserError(str(error)) from None
        share = config.episodes // config.seeds
        task = task_of(envs[0])

        allowed = functools.partial(permitted, rules, task, across=config.across)
        tasks_of = {
            seed: sample_tasks(envs[0], share, seed, config.goal_offset, allowed)
            for seed in range(config.seed, config.seed + config.seeds)
        }
        tasks = [task for some in tasks_of.values() for task in some]
        plan_ms, encode_ms, model_calls = time_plans(agent, envs[0], tasks[0], config.timed_plans)
        paths, watch = [], Watch(keep_imagined=config.failures is not None)
        for seed, some in tasks_of.items():
            paths += run_agent(agent, envs, some, config.budget_steps, seed, variation, watch)
        ours = measure_outcomes(envs[0], paths, tasks)
        if config.failures is not None:
            decoder = load_decoder(checkpoint, model, info)

            def seen(number: int) -> dict[str, Any]:
                """What the agent made of an episode, as a `Film` has it."""
                steps = watch.planned_at[number].tolist()
                found: dict[str, Any] = {
                    "regions": drawn_regions(envs[0], rules),
                    "distances": list(zip(steps, watch.distances[number], strict=True)),
                }
                if decoder is not None:
                    plans = zip(steps, watch.imagined[number], strict=True)
                    found["imagined"] = [
                        Imagination(step, decoder.paint(torch.from_numpy(z)), agent.frameskip)
                        for step, z in plans
                    ]
                if (rails := watch.expected[number]).size:
                    clear = zip(steps, -rails.max((1, 2)), strict=True)
                    found["clearances"] = list(clear)
                return found

            save_failures(config.failures, envs[0], paths, tasks, ours, variation, seen)
        result: dict[str, Any] = {
            "env": config.env,
            "checkpoint": checkpoint,
            "planner": config.planner,
            "episodes": config.episodes,
            "seed": config.seed,
            "seeds": config.seeds,
            "variation": list(variation),
            "budget_steps": config.budget_steps,
            "goal_offset": config.goal_offset if task_of(envs[0]).goal_offset_matters else None,
            "success_any": rate_interval(ours.success_any),
            "success_final": rate_interval(ours.success_final),
            "per_seed": {
                name: values.reshape(config.seeds, share).mean(1).tolist()
                for name, values in (
                    ("success_any", ours.success_any),
                    ("success_final", ours.success_final),
                )
            },
            "random": None,
            "ceiling": None,
            "plan_ms": plan_ms,
            "encode_ms": encode_ms,
            "model_calls_per_plan": model_calls,
            "decisions": None,
            "env_metrics": {},
            "settings": {
                "env_kwargs": kwargs,
                "batch": count,
                "threads": torch.get_num_threads(),
                "timed_plans": config.timed_plans,
                "planner_options": config.planner_options,
                **dataclasses.asdict(agent.config),
                "guardrails": config.guardrail,
                "judged": config.judged,
                "unguarded": config.unguarded,
                "across": config.across,
                "horizon": agent.horizon,
                "execute": agent.execute,
                "action_repeat": agent.repeat,
                "samples": agent.budget.samples,
                "iterations": agent.budget.iterations,
            },
        }
        del result["settings"]["seed"]  # each batch gets its own, from the seed above
        if count == 1:
            result["decisions"] = {
                "count": len(watch.decision_ms),
                "ms": percentiles(watch.decision_ms),
                "model_calls": percentiles(watch.model_calls),
            }
        _note(result, "", ours)
        if config.alarm:
            surprised = np.array(watch.surprised)
            result["alarms"] = {
                "per_step": rate_interval(surprised.ravel()),
                "per_episode": rate_interval(np.any(surprised, 1)),
            }
        if rules:
            result["guardrails"] = {
                **kept(rules, task, paths, ours),
                "stop_rate": mean_interval(np.mean(watch.stopped, 1)),
                "intervention_rate": mean_interval(np.mean(watch.intervened, 1)),
                "covered": covered(agent.rules, task, paths, watch, agent.frameskip),
            }

        few = config.episodes if config.random_episodes is None else config.random_episodes
        if few:
            paths = run_random(envs[0], tasks[:few], config.budget_steps, config.seed, variation)
            _note(result, "random", measure_outcomes(envs[0], paths, tasks[:few]))

        few = config.ceiling_episodes
        if few:
            # A simulator has no gradient: there CEM stands in for the gradient planner.
            name = "cem" if config.planner == "gradient" else config.planner
            simulated = planners.make(name)
            there = tasks[:few], config.budget_steps, config.seed, variation
            budget = Budget(config.ceiling_samples, config.ceiling_iterations)
            if config.ceiling_cost == "latents":
                tried = dataclasses.replace(
                    settings, samples=budget.samples, iterations=budget.iterations
                )
                on_simulator = AgentOnSimulator(model, encoder, info, simulated, tried)
                on_simulator.env = envs[0]
                paths = run_agent(on_simulator, envs[:1], *there)
            else:
                paths = run_ceiling(agent, simulated, budget, envs[0], *there)
            best = measure_outcomes(envs[0], paths, tasks[:few])
            _note(result, "ceiling", best)
            if rules:
                result["ceiling"]["guardrails"] = kept(rules, task, paths, best)
            result["ceiling"] |= {
                "planner": name,
                "samples": config.ceiling_samples,
                "iterations": config.ceiling_iterations,
                "cost": config.ceiling_cost,
                "rank_correlation": mean_interval(
                    rank_correlation(agent, envs[0], tasks[:few], config.seed, variation)
                ),
            }
    finally:
        for env in envs:
            env.close()
    return result


def kept(
    rules: Sequence[Rule], task: Task, paths: Sequence[Array], outcomes: Outcomes
) -> dict[str, Any]:
    """How well guardrails were kept in episodes, by their true states ``[steps + 1, Ds]``: breaches
    per step and per episode, how deep the worst was (of each rule, in its unit; below 0 is how far
    it stayed away), and success in episodes without any."""
    depths = np.stack([rule.violation(task, np.stack(paths)) for rule in rules])  # [R, n, steps]
    worst = depths.max(0)  # [n, steps]
    broken, safe = worst > 0, worst.max(1) <= 0
    return {
        "violation_per_step": rate_interval(broken.ravel()),
        "violation_per_episode": rate_interval(~safe),
        "worst_depth": {
            rule.text: float(depth.max())
            for rule, depth in zip(rules, depths, strict=True)
            if rule.tier == 2
        },
        "safe_success": rate_interval(outcomes.success_any & safe),
        "safe_success_final": rate_interval(outcomes.success_final & safe),
    }


def episode_scores(
    rule: Rule,
    index: int,
    task: Task,
    paths: Sequence[Array],
    watch: Watch,
    frameskip: int,
) -> Array:
    """The worst gap of each episode ``[n]``: depth in reality, less depth as imagined without the
    margin, over the steps that were carried out of each plan. Where there was no plan, the robot
    should have stayed at the margin.

    Args:
        rule: a guardrail on what is imagined.
        index: its place among those.
        task: reads quantities from states.
        paths: states of each episode ``[steps + 1, Ds]``.
        watch: what the agent imagined.
        frameskip: environment steps in a model step.
    """
    scores = []
    true = rule.violation(task, np.stack(paths))  # [n, steps]
    for depth, planned_at, expected, stopped in zip(
        true, watch.planned_at, watch.expected, watch.stopped, strict=True
    ):
        worst = -math.inf
        ends = [*planned_at[1:].tolist(), len(depth)]
        for start, end, violation in zip(planned_at.tolist(), ends, expected, strict=True):
            for k, at in enumerate(range(start, end, frameskip)):
                real = float(depth[at : min(at + frameskip, end)].max())
                imagined = 0.0 if stopped[start] else float(violation[k, index])
                worst = max(worst, real - (imagined - (rule.margin or 0.0)))
        scores.append(worst)
    return np.array(scores)


def covered(
    rules: Sequence[Rule],
    task: Task,
    paths: Sequence[Array],
    watch: Watch,
    frameskip: int,
) -> list[dict[str, Any]]:
    """Of each rule with a margin: the share of episodes whose score it covers."""
    imagined = [rule for rule in rules if rule.tier == 2]  # in the order of `watch.expected`
    return [
        {
            "guardrail": rule.text,
            "margin": rule.margin,
            **rate_interval(
                episode_scores(rule, index, task, paths, watch, frameskip) <= rule.margin
            ),
        }
        for index, rule in enumerate(imagined)
        if rule.margin and rule.judgeable
    ]


def mix(*numbers: int) -> int:
    """One seed out of several."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _note(result: dict[str, Any], who: str, outcomes: Outcomes) -> None:
    """Enter outcomes into the result: random and ceiling as success at any time, and `final`."""
    if who:
        result[who] = {
            **rate_interval(outcomes.success_any),
            "final": rate_interval(outcomes.success_final),
            "episodes": len(outcomes.success_any),
        }
    prefix = f"{who}_" if who else ""
    for name, interval in outcomes.metric_intervals().items():
        result["env_metrics"][prefix + name] = interval


@run_command
def main(argv: list[str] | None = None) -> int | None:
    """Evaluate, print a table, write the JSON."""
    config = parse_config(EvaluateConfig, argv, "worldmodel.evaluate", "Evaluate an agent.")
    if config.out is not None and not config.out.parent.is_dir():
        raise UserError(f"cannot write {config.out}: there is no folder {config.out.parent}")
    if config.failures is not None:
        writable_folder(config.failures)
    result = evaluate(config)
    if config.out is not None:
        atomic_write_json(config.out, result)
    if config.record is not None:
        print(f"wrote {record_evaluation(result['checkpoint'], config.record, result)}")
    print(table(result))
    return 0
