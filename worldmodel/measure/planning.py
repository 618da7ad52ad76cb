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
from worldmodel.cli import atomic_write_bytes, atomic_write_json, warn, writable_folder
from worldmodel.cli.device import pick_device
from worldmodel.control.config import AgentConfig, PlannerConfig
from worldmodel.control.goal_warnings import goal_warnings
from worldmodel.control.guardrails import parse_rules
from worldmodel.control.hold import task_hold
from worldmodel.control.observations import check_reach
from worldmodel.data.environments import VIEW_FLAGS
from worldmodel.data.images import load_image, load_images, load_mask
from worldmodel.errors import UserError
from worldmodel.measure.environments import check_fits, chosen_kwargs, make_env, same_env, view_of
from worldmodel.measure.episode import EpisodeLog, finite, run_episode
from worldmodel.measure.episode_pictures import draw_costs, episode_film, explanation_pictures
from worldmodel.measure.explanation import RecordingPlanner
from worldmodel.measure.film import animate, as_gif, as_mp4, guardrail_regions, tiled
from worldmodel.measure.goals import Goals, load_goals
from worldmodel.measure.outcomes import goals_outcome, outcome_text
from worldmodel.measure.rerun_recording import check_rerun, write_rerun
from worldmodel.models.checkpoint import CheckpointInfo, bundled_for, load_checkpoint
from worldmodel.models.decoder import Decoder, load_decoder

Array = NDArray[Any]


@dataclass(frozen=True)
class PlanConfig:
    """What to plan, and how."""

    SHORT: ClassVar = {"planner": "planner.name", "guardrail": "agent.guardrails", **VIEW_FLAGS}

    goal: str
    """Goal image; a .json beside it may hold states. Or a frame of a video: demo.mp4@12.5s. Or
    several of either: a.png,b.png."""
    reach: str = "each"
    """Which of several goals to reach: each, in their order, or any, the one that is cheapest."""
    goal_mask: Path | None = None
    """Image of the goal's size: what is white counts. Elsewhere the start replaces the goal."""
    env: str | None = None
    """Gymnasium id to act in, such as worldmodel/PushT-v0."""
    image: Path | None = None
    """Camera image to make one plan from, instead of --env."""
    proprio: str | None = None
    """Measured proprio with --image, as 0.1,0.2,0,0; default: read from the image by the model."""
    checkpoint: str | None = None
    """Bundled name, folder or hf:USER/NAME; default: the one bundled for the environment."""
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
    rerun: Path | None = None
    """File.rrd to write the episode to, for the viewer Rerun."""
    out: Path = Path("out/plan")
    """Folder for plan.gif, plan.mp4, report.json and cost.png."""

    def __post_init__(self) -> None:
        if (self.env is None) == (self.image is None):
            raise UserError("give either --env (act in it) or --image (make one plan from it)")
        if self.image is not None and self.checkpoint is None:
            raise UserError(
                "--image needs a --checkpoint, a bundled name, a folder or hf:USER/NAME"
            )
        if self.proprio is not None and self.image is None:
            raise UserError("--proprio goes with --image; an environment measures its own")
        if self.rerun is not None:
            if self.image is not None:
                raise UserError("--rerun goes with --env; one plan from an image has no episode")
            check_rerun(self.rerun)
        check_reach(self.reach)
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
    pixels = load_image(config.image, info.image_size, info.fit)
    goals = load_images(config.goal, info.image_size, info.fit)
    goals = np.where(_goal_mask(config, info), goals, pixels)
    parts = model.to(device), encoder.to(device), info
    agent = Agent(*parts, config.planner.make(), config.agent)
    agent.reset(goals, config.seed, reach=config.reach)
    agent.act(
        {"pixels": pixels, "proprio": agent.read_proprio(pixels) if proprio is None else proprio}
    )
    for sentence in goal_warnings(agent.perception, pixels):
        warn(sentence)
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


def _goal_mask(config: PlanConfig, info: CheckpointInfo) -> Array:
    """Where the goal counts, bool ``[S, S, 1]``."""
    size = info.image_size
    if config.goal_mask is None:
        return np.ones((size, size, 1), bool)
    return load_mask(config.goal_mask, size, info.fit)[..., None]


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
        goals: uint8 ``[N, H, W, 3]``.
        log: of all steps.
        outcome: success, or None where the state of a goal is unknown.
        regions: of guardrails, in the image.
        in_image: of the task.
        interrupted: by Ctrl-C.
    """

    agent: Agent
    decoder: Decoder | None
    goals: Array
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
    goals = load_goals(config.goal, info.image_size, info.fit)
    mask = _goal_mask(config, info)
    for goal_name, file in zip(goals.names, goals.files, strict=True):
        if file is not None and not same_env(file.env, config.env):
            raise UserError(f"{goal_name} is a goal of {file.env}, not of {config.env}")
    stored, first_file = info.env_kwargs, goals.files[0]
    if first_file is not None:
        stored = {**view_of(stored), **first_file.env_kwargs}
    env_kwargs = chosen_kwargs(config.env_kwargs, stored)
    env = make_env(config.env, env_kwargs, info.image_size, judged=first_file is not None)
    try:
        check_fits(env, info)
        parts = model.to(device), encoder.to(device), info
        agent = Agent(*parts, config.planner.make(), config.agent, task_hold(env))
        if config.explain or config.rerun is not None:
            agent.planner = RecordingPlanner(agent, env)
        decoder = load_decoder(name, model, info)
        start = _start(config, env, goals)
        writable_folder(config.out)
        if config.rerun is not None:
            writable_folder(config.rerun.parent)
        log, interrupted = EpisodeLog(), False
        images = np.where(mask, goals.images, start[0]["pixels"])
        agent.reset(images, config.seed, config.steps, reach=config.reach)
        states = _goal_states(env, goals, start)
        _print_warnings(config, agent, env, start, states)
        try:
            run_episode(agent, env, start, config.steps, log)
        except KeyboardInterrupt:
            interrupted = True
        # Ctrl-C may have fallen between two of the lists.
        del log.frames[len(log.actions) + 1 :], log.states[len(log.actions) + 1 :]
        if not log.states:
            raise KeyboardInterrupt
        outcome = None
        if states:
            outcome = goals_outcome(env, log.states, states, config.reach)
        regions = guardrail_regions(env, agent.rules)
        in_image = task_of(env).in_image
        return ClosedLoop(agent, decoder, images, log, outcome, regions, in_image, interrupted)
    finally:
        env.close()


def _start(config: PlanConfig, env: gym.Env[Any, Any], goals: Goals) -> tuple[Any, Any]:
    """What the environment's reset returns, at the start in the first goal's file."""
    file = goals.files[0]
    if file is None:
        return env.reset(seed=config.seed)
    seed = config.seed if file.env_seed is None else file.env_seed
    # The goal's state is for measuring success; the environment needs it to show success.
    options = {"state": file.start_state, "goal_state": np.asarray(file.goal_state, np.float64)}
    try:
        start = env.reset(seed=seed, options=options)
    except (ValueError, TypeError) as error:
        beside = Path(goals.names[0]).with_suffix(".json")
        raise UserError(f"{beside} does not fit {config.env}: {error}") from None
    size = len(start[1]["state"])
    for name, state in zip(goals.names, goals.states, strict=False):
        if state.shape != (size,):
            beside = Path(name).with_suffix(".json")
            raise UserError(
                f"{beside} does not fit {config.env}: its goal_state has shape {state.shape}, and "
                f"states have {size} numbers"
            )
    return start


def _goal_states(env: gym.Env[Any, Any], goals: Goals, start: tuple[Any, Any]) -> list[Array]:
    """The goal states, none where they are not known. The environment's own goal is judged without
    files, whatever the state."""
    if not any(goals.files) and task_of(env).own_goal:
        return [start[1]["state"]]
    return goals.states


def _print_warnings(
    config: PlanConfig,
    agent: Agent,
    env: gym.Env[Any, Any],
    start: tuple[Any, Any],
    states: list[Array],
) -> None:
    """Print what there is to say about the goals and the start. States tell whether the start is a
    success, where they are known."""
    obs, info = start
    success = None
    if states:
        outcome = goals_outcome(env, [info["state"]], states, config.reach)
        success = outcome["success_at_start"]
    for sentence in goal_warnings(agent.perception, obs["pixels"], success):
        warn(sentence)


def write_files(config: PlanConfig, episode: ClosedLoop) -> None:
    """Write the report and the pictures to ``--out``."""
    outcome, log = episode.outcome, episode.log
    first = outcome["first_success_step"] if outcome else None
    atomic_write_json(config.out / "report.json", episode_report(config, log, outcome))
    film = episode_film(
        episode.agent,
        episode.decoder,
        log,
        tiled(episode.goals),
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
    if config.rerun is not None:
        write_rerun(config.rerun, film, log, episode.agent.info.action_names)


def episode_report(
    config: PlanConfig, log: EpisodeLog, outcome: dict[str, Any] | None
) -> dict[str, Any]:
    """The contents of ``report.json``."""
    return {
        "env": config.env,
        "checkpoint": config.checkpoint or bundled_for(config.env or ""),
        "goal": config.goal,
        "goal_mask": None if config.goal_mask is None else str(config.goal_mask),
        "reach": config.reach,
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
    else:
        text = outcome_text(outcome, steps)
    if left := len(episode.agent.perception.next_goals):
        text += f"; on the way to goal {len(episode.goals) - left} of {len(episode.goals)}"
    if log.plan_ms:
        text += f"; {float(np.median(log.plan_ms)) / 1e3:.2g} s a plan"
    if log.stop_reason:
        text += f"; stopped at times ({log.stop_reason})"
    if log.interventions:
        text += f"; guardrails intervened in {len(log.interventions)} steps"
    if log.surprises:
        text += f"; surprised in {len(log.surprises)} steps"
    text += f"; wrote {config.out / 'plan.gif'}"
    return text if config.rerun is None else f"{text} and {config.rerun}"
