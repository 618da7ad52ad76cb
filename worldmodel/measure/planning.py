"""Planning towards a goal image: in closed loop in an environment, or one plan from one image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.task import task_of
from worldmodel.agent import Agent
from worldmodel.cli import atomic_write_bytes, atomic_write_json, writable_folder
from worldmodel.cli.device import pick_device
from worldmodel.control.config import AgentConfig, PlannerConfig
from worldmodel.control.guardrails import parse_rules
from worldmodel.control.hold import task_hold
from worldmodel.data.environments import VIEW_FLAGS
from worldmodel.data.images import load_image
from worldmodel.errors import UserError
from worldmodel.measure.environments import check_fits, chosen_kwargs, make_env, same_env, view_of
from worldmodel.measure.episode import EpisodeLog, finite, run_episode
from worldmodel.measure.episode_pictures import draw_costs, episode_film, explanation_pictures
from worldmodel.measure.explanation import RecordingPlanner
from worldmodel.measure.film import animate, as_gif, as_mp4, guardrail_regions
from worldmodel.measure.goals import GoalFile, load_goal
from worldmodel.measure.outcomes import episode_outcome
from worldmodel.models.checkpoint import bundled_for, load_checkpoint
from worldmodel.models.decoder import Decoder, load_decoder

Array = NDArray[Any]


@dataclass(frozen=True)
class PlanConfig:
    """What to plan, and how."""

    SHORT: ClassVar = {"planner": "planner.name", "guardrail": "agent.guardrails", **VIEW_FLAGS}

    goal: Path
    """Goal image: PNG, RGB, of the camera's size. A .json beside it may hold states."""
    env: str | None = None
    """Gymnasium id to act in, such as worldmodel/PushT-v0."""
    image: Path | None = None
    """Camera image to make one plan from, instead of --env."""
    proprio: str | None = None
    """Measured proprio with --image, as 0.1,0.2,0,0; default: read from the image by the model."""
    checkpoint: str | None = None
    """Bundled name or folder; default: the one bundled for the environment."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, as --env_kwargs.layout U; default: the goal's."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """Which planner searches. --planner mppi is short for --planner.name mppi."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """How the agent plans and acts. --guardrail RULE is short for --agent.guardrails RULE."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    steps: int = 50
    """Environment steps."""
    seed: int = 0
    """Seed of the planner, and of the start where the goal comes without one."""
    explain: bool = False
    """Write explain.gif as well: the candidates of each plan, iteration by iteration."""
    out: Path = Path("out/plan")
    """Folder for plan.gif, plan.mp4, report.json and cost.png."""

    def __post_init__(self) -> None:
        if (self.env is None) == (self.image is None):
            raise UserError("give either --env (act in it) or --image (make one plan from it)")
        if self.image is not None and self.checkpoint is None:
            raise UserError("--image needs a --checkpoint, a bundled name (pusht) or a folder")
        if self.proprio is not None and self.image is None:
            raise UserError("--proprio goes with --image; an environment measures its own")
        parse_rules(self.agent.guardrails)
        if self.steps < 1:
            raise UserError(f"steps is {self.steps}: it must be at least 1")


# ------------------------------------------------------------------------------------- one plan
def plan_from_image(config: PlanConfig) -> dict[str, Any]:
    """Make one plan from ``--image``.

    Returns:
        The actions ``[T*F][A]`` and what the model predicts for them.

    Raises:
        UserError: an unusable image, checkpoint or proprio, or no feasible plan.
    """
    assert config.image is not None and config.checkpoint is not None
    proprio = None if config.proprio is None else _parse_proprio(config.proprio)
    device = pick_device(config.device)
    model, encoder, info = load_checkpoint(config.checkpoint)
    goal, _ = load_goal(config.goal, info.image_size, info.fit)
    pixels = load_image(config.image, info.image_size, info.fit)
    parts = model.to(device), encoder.to(device), info
    agent = Agent(*parts, config.planner.make(), config.agent)
    agent.reset(goal, config.seed)
    agent.act(
        {"pixels": pixels, "proprio": agent.read_proprio(pixels) if proprio is None else proprio}
    )
    plan = agent.last_plan
    assert plan is not None
    if agent.stop_reason:
        raise UserError(f"no plan: {agent.stop_reason}")
    return {
        "actions": agent.sequence(plan.actions)[0].float().cpu().tolist(),
        "cost": finite(plan.cost[0]),
        "latent_distance": finite(agent.distance[0]),
        "model_calls": plan.model_calls,
        "stopped_by": plan.stop_reason,
        "plan_ms": round(agent.last_timings["plan_ms"], 3),
    }


def _parse_proprio(text: str) -> Array:
    try:
        values = [float(number) for number in text.strip("[] ").split(",")]
    except ValueError:
        raise UserError(f"proprio is {text!r}: write numbers with commas, as 0.1,0.2,0,0") from None
    if not np.isfinite(values).all():
        raise UserError(f"proprio is {text!r}: all of it must be finite numbers")
    return np.array(values, np.float32)


# ---------------------------------------------------------------------------------- closed loop
@dataclass(frozen=True)
class ClosedLoop:
    """An episode in closed loop.

    Attributes:
        agent: that acted.
        decoder: of its latents, or None.
        goal: uint8 ``[H, W, 3]``.
        log: of all steps.
        outcome: success, or None where the goal's state is unknown.
        regions: of guardrails, in the image.
        in_image: of the task.
        interrupted: by Ctrl-C.
    """

    agent: Agent
    decoder: Decoder | None
    goal: Array
    log: EpisodeLog
    outcome: dict[str, Any] | None
    regions: list[tuple[Array, bool]]
    in_image: Callable[[Array], Array | None]
    interrupted: bool


def run_closed_loop(config: PlanConfig) -> ClosedLoop:
    """Act in ``--env`` towards the goal. Ctrl-C ends the episode early.

    Raises:
        UserError: an unusable goal, checkpoint, environment or folder.
        KeyboardInterrupt: before the first step.
    """
    assert config.env is not None
    device = pick_device(config.device)
    name = config.checkpoint or bundled_for(config.env)
    model, encoder, info = load_checkpoint(name)
    goal, goal_file = load_goal(config.goal, info.image_size, info.fit)
    if goal_file is not None and not same_env(goal_file.env, config.env):
        raise UserError(f"{config.goal} is a goal of {goal_file.env}, not of {config.env}")
    stored = info.env_kwargs
    if goal_file is not None:
        stored = {**view_of(stored), **goal_file.env_kwargs}
    env_kwargs = chosen_kwargs(config.env_kwargs, stored)
    env = make_env(config.env, env_kwargs, info.image_size, judged=goal_file is not None)
    try:
        check_fits(env, info)
        parts = model.to(device), encoder.to(device), info
        agent = Agent(*parts, config.planner.make(), config.agent, task_hold(env))
        if config.explain:
            agent.planner = RecordingPlanner(agent, env)
        decoder = load_decoder(name, model, info)
        start, goal_state = _start(config, env, goal_file)
        writable_folder(config.out)
        log, interrupted = EpisodeLog(), False
        agent.reset(goal, config.seed, config.steps)
        try:
            run_episode(agent, env, start, config.steps, log)
        except KeyboardInterrupt:
            interrupted = True
        # Ctrl-C may have fallen between two of the lists.
        del log.frames[len(log.actions) + 1 :], log.states[len(log.actions) + 1 :]
        if not log.states:
            raise KeyboardInterrupt
        outcome = None if goal_state is None else episode_outcome(env, log.states, goal_state)
        regions = guardrail_regions(env, agent.rules)
        in_image = task_of(env).in_image
        return ClosedLoop(agent, decoder, goal, log, outcome, regions, in_image, interrupted)
    finally:
        env.close()


def _start(
    config: PlanConfig, env: gym.Env[Any, Any], goal_file: GoalFile | None
) -> tuple[tuple[Any, Any], Array | None]:
    """What the environment's reset returns, at the goal file's start; and the goal's state. Without
    a file only an environment's own goal can be judged, whatever the state."""
    if goal_file is None:
        obs, info = env.reset(seed=config.seed)
        return (obs, info), info["state"] if task_of(env).own_goal else None
    try:
        # The goal's state is for measuring success; the environment needs it to show success.
        goal_state = np.asarray(goal_file.goal_state, np.float64)
        options = {"state": goal_file.start_state, "goal_state": goal_state}
        seed = config.seed if goal_file.env_seed is None else goal_file.env_seed
        return env.reset(seed=seed, options=options), goal_state
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{config.goal.with_suffix('.json')} does not fit {config.env}: {error}"
        ) from None


def write_files(config: PlanConfig, episode: ClosedLoop) -> None:
    """Write the report and the pictures to ``--out``."""
    outcome, log = episode.outcome, episode.log
    first = outcome["first_success_step"] if outcome else None
    atomic_write_json(config.out / "report.json", episode_report(config, log, outcome))
    film = episode_film(
        episode.agent,
        episode.decoder,
        log,
        episode.goal,
        first,
        episode.regions,
        episode.in_image,
    )
    pictures = animate(film)
    atomic_write_bytes(config.out / "plan.gif", as_gif(pictures))
    atomic_write_bytes(config.out / "plan.mp4", as_mp4(pictures))
    atomic_write_bytes(config.out / "cost.png", draw_costs(log))
    if config.explain:
        pictures = explanation_pictures(episode.decoder, log, episode.regions, episode.in_image)
        atomic_write_bytes(config.out / "explain.gif", as_gif(pictures, fps=4))


def episode_report(
    config: PlanConfig, log: EpisodeLog, outcome: dict[str, Any] | None
) -> dict[str, Any]:
    """The contents of ``report.json``."""
    return {
        "env": config.env,
        "checkpoint": config.checkpoint or bundled_for(config.env or ""),
        "goal": str(config.goal),
        "planner": config.planner.name,
        "seed": config.seed,
        "steps": len(log.actions),
        "budget_steps": config.steps,
        "outcome": outcome,
        "latent_distance": {
            "start": finite(log.distances[0]) if log.distances else None,
            "end": finite(log.distances[-1]) if log.distances else None,
        },
        "stop_reason": log.stop_reason,
        "interventions": log.interventions,
        "surprises": log.surprises,
        "actions": [action.tolist() for action in log.actions],
        "plans": [
            {"step": step, "cost": finite(cost), "plan_ms": round(ms, 3)}
            for step, cost, ms in zip(log.plan_steps, log.costs, log.plan_ms, strict=False)
        ],
        "encode_ms": [round(ms, 3) for ms in log.encode_ms],
    }


def summary(config: PlanConfig, episode: ClosedLoop) -> str:
    """One line for people."""
    log, outcome = episode.log, episode.outcome
    steps = len(log.actions)
    if outcome is None:
        distances = log.distances or [math.nan]
        text = f"{steps} steps; latent distance to the goal from {distances[0]:.3g} to "
        text += f"{distances[-1]:.3g}"
    elif outcome["success_any"]:
        text = f"goal reached at step {outcome['first_success_step']} of {steps}"
        text += "" if outcome["success_final"] else ", and left again"
    else:
        text = f"goal not reached in {steps} steps"
    if log.plan_ms:
        text += f"; {float(np.median(log.plan_ms)) / 1e3:.2g} s a plan"
    if log.stop_reason:
        text += f"; stopped at times ({log.stop_reason})"
    if log.interventions:
        text += f"; guardrails intervened in {len(log.interventions)} steps"
    if log.surprises:
        text += f"; surprised in {len(log.surprises)} steps"
    return f"{text}; wrote {config.out / 'plan.gif'}"
