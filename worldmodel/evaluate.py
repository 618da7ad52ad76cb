"""How often an agent reaches its goals: the one protocol behind every number in this project.

    python -m worldmodel.evaluate --env worldmodel/PushT-v0 --episodes 200 --out result.json

Held-out starts and goals, a fixed budget of environment steps, success at any time and at the end
with Wilson 95 % intervals; beside it the same tasks under random actions (the floor), and a few of
them planned on the true simulator with the judge's own distance (the ceiling). The agent sees
pixels and proprio only, and never hears of success: every episode runs to the end of its budget.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

import planners
from envs import chips, maze, pusht
from envs.policies import make_policy
from planners import Budget, Planner, Problem, Trajectory
from worldmodel.agent import Agent, AgentConfig, make_planner
from worldmodel.checkpoint import bundled_for, load_checkpoint, record_evaluation
from worldmodel.cli import Progress, atomic_write_json, parse_config
from worldmodel.cli import progress as show_progress
from worldmodel.cli import run as run_command
from worldmodel.errors import UserError
from worldmodel.tasks import Task, check_fits, has_random_goals, make_env, sample_tasks

Array = NDArray[Any]
Z95 = 1.959964  # standard deviations on either side that hold 95 % of a normal distribution


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
    episodes: int = 200
    """Tasks."""
    seed: int = 0
    """Of tasks, planner and random actions."""
    budget_steps: int = 50
    """Environment steps of every episode."""
    goal_offset: int = 25
    """How many environment steps ahead the goals lie (Push-T)."""
    samples: int | None = None
    """Candidates per iteration; default: the planner's."""
    iterations: int | None = None
    """Iterations; default: the planner's."""
    horizon: int | None = None
    """Model steps imagined; default: the checkpoint's."""
    execute: int | None = None
    """Environment steps carried out before planning again; default: one model step."""
    proprio_weight: float = AgentConfig.proprio_weight
    """Weight of the distance in proprio, once the goal is near."""
    near: float = AgentConfig.near
    """Distance in latents at which half of that weight counts."""
    time_weight: float = AgentConfig.time_weight
    """Cost of a model step that passes before arriving, in units of `near`."""
    stay_weight: float = AgentConfig.stay_weight
    """Weight of the distance at the horizon."""
    action_repeat: int | None = None
    """Primitive actions that share one planned value; default: the whole frameskip."""
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
    timed_plans: int = 20
    """Plans of a single episode that are timed."""
    out: Path | None = None
    """JSON file to write."""
    record: str | None = None
    """Name under which to keep the result in the checkpoint's config.json as well."""

    def __post_init__(self) -> None:
        for name in ("episodes", "budget_steps", "batch", "timed_plans", "ceiling_samples"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("random_episodes", "ceiling_episodes"):
            if not 0 <= (getattr(self, name) or 0) <= self.episodes:
                raise UserError(
                    f"{name} is {getattr(self, name)}: it must be 0 to {self.episodes} (episodes)"
                )


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What became of n tasks: bool ``[n]`` each; `block` ones only where the task has a block.
    `chamfer`, where it has chips: Chamfer distance at the start and at the end ``[2, n]``."""

    success_any: Array
    success_final: Array
    block_any: Array | None = None
    block_final: Array | None = None
    chamfer: Array | None = None


# ---------------------------------------------------------------------------------- the judge
def judge(env: gym.Env[Any, Any], paths: Sequence[Array], tasks: Sequence[Task]) -> Outcomes:
    """Success of paths of states, each ``[steps + 1, Ds]`` from a task's start on."""
    world: Any = env.unwrapped

    def solved(success: Any) -> Array:
        """Whether each task was solved after each step, bool [n, steps]."""
        return np.array(
            [
                [success(state, task.goal_state) for state in path[1:]]
                for path, task in zip(paths, tasks, strict=True)
            ]
        )

    both = solved(world.success)
    if isinstance(world, chips.GranularChipsEnv):
        ends = [
            [
                world.chamfer(path[at], task.goal_state)
                for path, task in zip(paths, tasks, strict=True)
            ]
            for at in (0, -1)
        ]
        return Outcomes(np.any(both, 1), both[:, -1], chamfer=np.array(ends))
    if not hasattr(world, "block_success"):
        return Outcomes(np.any(both, 1), both[:, -1])
    block = solved(world.block_success)
    return Outcomes(np.any(both, 1), both[:, -1], np.any(block, 1), block[:, -1])


def wilson(successes: int, episodes: int) -> dict[str, float]:
    """A rate and its Wilson (1927) 95 % interval: sound near 0 and 1 and for few episodes."""
    rate = successes / episodes
    scale = 1 + Z95**2 / episodes
    middle = (rate + Z95**2 / (2 * episodes)) / scale
    half = Z95 / scale * np.sqrt(rate * (1 - rate) / episodes + Z95**2 / (4 * episodes**2))
    low = 0.0 if successes == 0 else max(0.0, float(middle - half))
    high = 1.0 if successes == episodes else min(1.0, float(middle + half))
    return {"rate": rate, "low": low, "high": high}


def mean_of(values: Array) -> dict[str, float]:
    """A mean and its bootstrap 95 % interval (percentiles of 10,000 resamples)."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (10_000, len(values))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def rate_of(success: Array) -> dict[str, float]:
    """`wilson` of bool ``[n]``."""
    return wilson(int(success.sum()), len(success))


# ------------------------------------------------------------------------- agent, floor, ceiling
def run_agent(
    agent: Agent,
    envs: Sequence[gym.Env[Any, Any]],
    tasks: Sequence[Task],
    budget_steps: int,
    seed: int = 0,
) -> list[Array]:
    """Let `agent` work on the tasks, as many at once as there are environments.

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
            worlds: list[tuple[Any, Task]] = [(env.unwrapped, task) for env, task in pairs]
            goals = [world.render_state(task.goal_state) for world, task in worlds]
            agent.reset(np.stack(goals), seed=mix(seed, number))
            seen = [
                env.reset(seed=task.env_seed, options={"state": task.start_state})
                for env, task in pairs
            ]
            states = [[info["state"] for _, info in seen]]
            observations = [obs for obs, _ in seen]
            for _ in range(budget_steps):
                stacked = {k: np.stack([obs[k] for obs in observations]) for k in observations[0]}
                actions = agent.act(stacked)
                steps = [env.step(action) for env, action in zip(active, actions, strict=True)]
                observations = [step[0] for step in steps]
                states.append([step[4]["state"] for step in steps])
                bar.update(len(batch))
            paths += list(np.stack(states, 1))
    return paths


def run_random(
    env: gym.Env[Any, Any], tasks: Sequence[Task], budget_steps: int, seed: int
) -> list[Array]:
    """The states of random behaviour, which needs no camera: ``[budget_steps + 1, Ds]`` each."""
    world: Any = env.unwrapped
    paths = []
    for number, task in enumerate(show_progress(tasks, len(tasks), "random", "episode")):
        policy = make_policy(env, "random", np.random.default_rng([seed, number]))
        actions = np.stack([policy(None, {}) for _ in range(budget_steps)])
        paths.append(world.physics(task.start_state, actions))
    return paths


def judged_distance(env: gym.Env[Any, Any], states: Array, goal: Array) -> Array:
    """Squared distance of states ``[..., Ds]`` to `goal`, in units of what success tolerates."""
    world = env.unwrapped
    if isinstance(world, pusht.PushTEnv):
        position = np.linalg.norm(states[..., :4] - goal[:4], axis=-1) / pusht.POSITION_TOLERANCE
        angle = (states[..., 4] - goal[4] + np.pi) % (2 * np.pi) - np.pi
        squared: Array = position**2 + (angle / pusht.ANGLE_TOLERANCE) ** 2
        return squared
    if isinstance(world, maze.MazeEnv):
        squared = ((states[..., :2] - goal[:2]) ** 2).sum(-1) / (maze.CELL / 2) ** 2
        return squared
    if isinstance(world, chips.GranularChipsEnv):
        apart = [world.chamfer(state, goal) for state in states.reshape(-1, states.shape[-1])]
        squared = np.reshape(apart, states.shape[:-1]) ** 2
        return squared
    raise UserError(f"{env.spec and env.spec.id} has no known distance: use --ceiling_episodes 0")


def run_ceiling(
    env: gym.Env[Any, Any],
    tasks: Sequence[Task],
    planner: Planner,
    budget: Budget,
    agent: Agent,
    budget_steps: int,
    seed: int,
) -> list[Array]:
    """The agent's loop with the simulator for a model and the judge's distance for a cost.

    What is left to gain by a perfect model and perfect features, with this planner and budget.
    """
    world: Any = env.unwrapped
    horizon, frameskip = agent.horizon, agent.frameskip
    low, high = agent.low.double().cpu(), agent.high.double().cpu()
    paths = []
    for number, task in enumerate(show_progress(tasks, len(tasks), "ceiling", "episode")):
        generator = torch.Generator().manual_seed(mix(seed, number))
        path, warm_start = [task.start_state], None

        def cost(trajectory: Trajectory, actions: torch.Tensor, task: Task = task) -> torch.Tensor:
            apart = judged_distance(env, trajectory.z[:, :, :, 0].numpy(), task.goal_state)
            return agent.arrival_cost(torch.from_numpy(apart), near=1.0)

        while len(path) <= budget_steps:

            def rollout(actions: torch.Tensor, state: Array = path[-1]) -> Trajectory:
                chunks = agent.primitive(actions[0])  # [S, T, F*a]
                sequences = chunks.unflatten(-1, (frameskip, -1)).flatten(1, 2).numpy()
                states = [world.physics(state, sequence) for sequence in sequences]
                after_each = np.stack(states)[:, frameskip::frameskip]
                return Trajectory(torch.from_numpy(after_each)[None, :, :, None])

            problem = Problem(
                rollout, cost, low, high, horizon, warm_start=warm_start, idle=agent.idle
            )
            plan = planner.plan(problem, budget, generator)
            now = agent.sequence(plan.actions)[0, : agent.execute]
            path += list(world.physics(path[-1], now.numpy())[1:])
            warm_start = agent.left_over(plan.actions)
        paths.append(np.stack(path[: budget_steps + 1]))
    return paths


def time_plans(
    agent: Agent, env: gym.Env[Any, Any], task: Task, count: int
) -> tuple[dict[str, float], dict[str, float], int]:
    """Wall time of planning for one episode: plan_ms and encode_ms (p50, p99), model calls a plan.

    Batched planning spreads its costs; a robot is alone, so `count` single plans are timed, each
    from a fresh start, after one to warm up. plan_ms includes encoding the frame.
    """
    world: Any = env.unwrapped
    obs, _ = env.reset(seed=task.env_seed, options={"state": task.start_state})
    goal = world.render_state(task.goal_state)
    plan_ms, encode_ms = [], []
    for number in range(count + 1):
        agent.reset(goal, seed=number)
        begun = time.perf_counter()
        agent.act(obs)
        if number:
            plan_ms.append((time.perf_counter() - begun) * 1e3)
            encode_ms.append(agent.last_timings["encode_ms"])
    assert agent.last_plan is not None

    def percentiles(values: list[float]) -> dict[str, float]:
        return {f"p{p}": round(float(np.percentile(values, p)), 3) for p in (50, 99)}

    return percentiles(plan_ms), percentiles(encode_ms), agent.last_plan.model_calls


# --------------------------------------------------------------------------------- the protocol
def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Run the protocol; what it returns is what ``--out`` gets.

    Raises:
        UserError: the checkpoint is not for this environment, or anything else in `config`.
    """
    checkpoint = config.checkpoint or bundled_for(config.env)
    planner = make_planner(config.planner)
    settings = AgentConfig(
        horizon=config.horizon,
        execute=config.execute,
        samples=config.samples,
        iterations=config.iterations,
        proprio_weight=config.proprio_weight,
        near=config.near,
        time_weight=config.time_weight,
        stay_weight=config.stay_weight,
        action_repeat=config.action_repeat,
    )
    model, encoder, info = load_checkpoint(checkpoint)
    agent = Agent(model, encoder, info, planner, settings)
    kwargs = config.env_kwargs or info.env_kwargs
    count = min(config.batch, config.episodes)
    envs = [make_env(config.env, kwargs, info.image_size) for _ in range(count)]
    try:
        check_fits(envs[0], info)
        tasks = sample_tasks(envs[0], config.episodes, config.seed, config.goal_offset)
        plan_ms, encode_ms, model_calls = time_plans(agent, envs[0], tasks[0], config.timed_plans)
        paths = run_agent(agent, envs, tasks, config.budget_steps, config.seed)
        ours = judge(envs[0], paths, tasks)
        result: dict[str, Any] = {
            "env": config.env,
            "checkpoint": checkpoint,
            "planner": config.planner,
            "episodes": config.episodes,
            "seed": config.seed,
            "budget_steps": config.budget_steps,
            "goal_offset": None if has_random_goals(envs[0]) else config.goal_offset,
            "success_any": rate_of(ours.success_any),
            "success_final": rate_of(ours.success_final),
            "random": None,
            "ceiling": None,
            "plan_ms": plan_ms,
            "encode_ms": encode_ms,
            "model_calls_per_plan": model_calls,
            "env_metrics": {},
            "settings": {
                "env_kwargs": kwargs,
                "batch": count,
                "threads": torch.get_num_threads(),
                "timed_plans": config.timed_plans,
                **dataclasses.asdict(agent.config),
                "horizon": agent.horizon,
                "execute": agent.execute,
                "action_repeat": agent.repeat,
                "samples": agent.budget.samples,
                "iterations": agent.budget.iterations,
            },
        }
        del result["settings"]["seed"]  # each batch gets its own, from the seed above
        _note(result, "", ours)

        few = config.episodes if config.random_episodes is None else config.random_episodes
        if few:
            paths = run_random(envs[0], tasks[:few], config.budget_steps, config.seed)
            _note(result, "random", judge(envs[0], paths, tasks[:few]))

        few = config.ceiling_episodes
        if few:
            # A simulator has no gradient: there CEM stands in for the gradient planner.
            name = "cem" if config.planner == "gradient" else config.planner
            budget = Budget(config.ceiling_samples, config.ceiling_iterations)
            simulated = planners.make(name)
            paths = run_ceiling(
                envs[0], tasks[:few], simulated, budget, agent, config.budget_steps, config.seed
            )
            _note(result, "ceiling", judge(envs[0], paths, tasks[:few]))
            result["ceiling"] |= {
                "planner": name,
                "samples": config.ceiling_samples,
                "iterations": config.ceiling_iterations,
            }
    finally:
        for env in envs:
            env.close()
    return result


def mix(*numbers: int) -> int:
    """One seed out of several."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _note(result: dict[str, Any], who: str, outcomes: Outcomes) -> None:
    """Enter outcomes into the result: random and ceiling as success at any time, and `final`."""
    if who:
        result[who] = {
            **rate_of(outcomes.success_any),
            "final": rate_of(outcomes.success_final),
            "episodes": len(outcomes.success_any),
        }
    if outcomes.chamfer is not None:
        prefix = f"{who}_" if who else ""
        for when, values in zip(("start", "final"), outcomes.chamfer, strict=True):
            result["env_metrics"][f"{prefix}chamfer_{when}"] = mean_of(values)
    if outcomes.block_any is not None and outcomes.block_final is not None:
        prefix = f"{who}_" if who else ""
        result["env_metrics"][f"{prefix}block_success_any"] = rate_of(outcomes.block_any)
        result["env_metrics"][f"{prefix}block_success_final"] = rate_of(outcomes.block_final)


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""

    def row(name: str, episodes: int, *rates: dict[str, float]) -> str:
        cells = [
            f"{100 * r['rate']:.1f} % ({100 * r['low']:.1f} to {100 * r['high']:.1f})"
            for r in rates
        ]
        return f"| {name} | {episodes} | {' | '.join(cells)} |"

    settings = result["settings"]
    budget = f"{settings['samples']} x {settings['iterations']}"
    n, offset = result["episodes"], result["goal_offset"]
    rows = [
        f"{result['env']}, checkpoint {result['checkpoint']}: {result['budget_steps']} steps"
        + (f", goals {offset} steps ahead" if offset else ", random goals")
        + f", seed {result['seed']}",
        "",
        "| | episodes | success at any time | success at the end |",
        "|---|---|---|---|",
        row(f"{result['planner']} {budget}", n, result["success_any"], result["success_final"]),
    ]
    metrics = result["env_metrics"]
    if "block_success_any" in metrics:
        rows.append(
            row("block only", n, metrics["block_success_any"], metrics["block_success_final"])
        )
    if floor := result["random"]:
        rows.append(row("random actions", floor["episodes"], floor, floor["final"]))
    if top := result["ceiling"]:
        name = f"{top['planner']} {top['samples']} x {top['iterations']} on the true simulator"
        rows.append(row(name, top["episodes"], top, top["final"]))
    if "chamfer_final" in metrics:
        rows += ["", "| Chamfer distance, chip widths | start | end |", "|---|---|---|"]
        names = {"": result["planner"], "random_": "random actions", "ceiling_": "true simulator"}
        for prefix, name in names.items():
            if f"{prefix}chamfer_final" in metrics:
                cells = [
                    "{mean:.2f} ({low:.2f} to {high:.2f})".format(
                        **metrics[f"{prefix}chamfer_{at}"]
                    )
                    for at in ("start", "final")
                ]
                rows.append(f"| {name} | {' | '.join(cells)} |")
    rows += [
        "",
        f"One plan: {result['plan_ms']['p50']:.0f} ms (p50), {result['plan_ms']['p99']:.0f} ms "
        f"(p99), {result['model_calls_per_plan']} model steps, horizon {settings['horizon']}, "
        f"{settings['threads']} threads.",
    ]
    return "\n".join(rows)


@run_command
def main(argv: list[str] | None = None) -> int | None:
    """Evaluate, print a table, write the JSON."""
    config = parse_config(EvaluateConfig, argv, "worldmodel.evaluate", "Evaluate an agent.")
    if config.out is not None and not config.out.parent.is_dir():
        raise UserError(f"cannot write {config.out}: there is no folder {config.out.parent}")
    result = evaluate(config)
    if config.out is not None:
        atomic_write_json(config.out, result)
    if config.record is not None:
        record_evaluation(result["checkpoint"], config.record, result)
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
