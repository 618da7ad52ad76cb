"""Show a robot a goal image, and see what it does.

    plan --env worldmodel/PushT-v0 --goal goal.png
    plan --image now.png --goal goal.png --checkpoint pusht

The first runs an environment in closed loop and writes ``plan.gif`` and ``plan.mp4`` (reality, the
goal, what the plans imagine, how far it is), ``report.json`` and ``cost.png``; with ``--explain
true`` also ``explain.gif``: what was tried for every plan. The second makes one plan from one image
and prints its actions as JSON. Goal images come from ``python -m worldmodel.goal`` or from any
camera image of the right size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from planners import Trajectory
from worldmodel.agent import Agent, AgentConfig, make_planner
from worldmodel.cli import atomic_write_bytes, atomic_write_json, parse_config, writable_folder
from worldmodel.cli import progress as show_progress
from worldmodel.cli import run as run_command
from worldmodel.control.guardrails import Rule, parse_rules
from worldmodel.data.images import load_image
from worldmodel.errors import UserError
from worldmodel.measure.environments import check_fits, make_env, same_env
from worldmodel.measure.explanation import ExplainingAgent, Tried, converging
from worldmodel.measure.film import MOST_FRAMES, Film, Imagination, animate, as_gif, as_mp4, as_png
from worldmodel.measure.goals import GoalFile, load_goal
from worldmodel.measure.outcomes import episode_outcome
from worldmodel.models.checkpoint import bundled_for, load_checkpoint
from worldmodel.models.decoder import Decoder, load_decoder

Array = NDArray[Any]


@dataclass(frozen=True)
class PlanConfig:
    """What to plan, and how."""

    goal: Path
    """Goal image: PNG, RGB, as large as the camera images. A .json beside it may hold states."""
    env: str | None = None
    """Gymnasium id to act in, such as worldmodel/PushT-v0."""
    image: Path | None = None
    """Camera image to make one plan from, instead of --env."""
    proprio: str | None = None
    """Measured proprio with --image, as 0.1,0.2,0,0; default: read off the image."""
    checkpoint: str | None = None
    """Bundled name or folder; default: the one bundled for the environment."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, as --env_kwargs.layout U; default: the goal's."""
    planner: str = "cem"
    """cem, mppi, cmaes or gradient."""
    samples: int | None = None
    """Candidates per iteration; default: the checkpoint's (gradient: its own)."""
    iterations: int | None = None
    """Iterations; default: the checkpoint's (gradient: its own)."""
    horizon: int | None = None
    """Model steps imagined; default: the checkpoint's."""
    execute: int | None = None
    """Environment steps carried out before planning again; default: one model step."""
    budget_ms: float | None = None
    """Milliseconds from what is seen to what is done: planners that sample go on until then, or
    until they converge, unless --iterations are given."""
    patience: int | None = None
    """Iterations without progress after which a search has converged; default: 5 with --budget_ms,
    and else never."""
    max_memory_mb: float = AgentConfig.max_memory_mb
    """Megabytes that imagining may take, about."""
    deadline_ms: float | None = None
    """Milliseconds after which a plan is too late to be carried out."""
    alarm: float = 0.0
    """p-value below which what is seen is a surprise, as 0.001; 0: not watched."""
    guardrail: list[str] = field(default_factory=list)
    """What no plan may break, as no_go:x=0.1:0.3,y=0:0.2 or max_speed:0.1; may be given again."""
    steps: int = 50
    """Environment steps."""
    seed: int = 0
    """Of the planner, and of the start where the goal does not come with one."""
    explain: bool = False
    """Write explain.gif, too: what the planner tried for each plan, and how that converged."""
    out: Path = Path("out/plan")
    """Folder for plan.gif, plan.mp4, report.json and cost.png."""

    def __post_init__(self) -> None:
        if (self.env is None) == (self.image is None):
            raise UserError("give either --env (act in it) or --image (make one plan from it)")
        if self.image is not None and self.checkpoint is None:
            raise UserError("--image needs a --checkpoint, a bundled name (pusht) or a folder")
        if self.proprio is not None and self.image is None:
            raise UserError("--proprio goes with --image; an environment measures its own")
        parse_rules(self.guardrail)
        if self.steps < 1:
            raise UserError(f"steps is {self.steps}: it must be at least 1")

    def agent_config(self) -> AgentConfig:
        return AgentConfig(
            horizon=self.horizon,
            execute=self.execute,
            samples=self.samples,
            iterations=self.iterations,
            budget_ms=self.budget_ms,
            patience=self.patience,
            max_memory_mb=self.max_memory_mb,
            deadline_ms=self.deadline_ms,
            alarm=self.alarm,
            guardrails=tuple(self.guardrail),
            seed=self.seed,
        )


@dataclass
class Log:
    """What happened so far. `states` are for the judge."""

    frames: list[Array] = field(default_factory=list)
    actions: list[Array] = field(default_factory=list)
    states: list[Array] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)  # one per plan, as are the next two
    plan_ms: list[float] = field(default_factory=list)
    plan_steps: list[int] = field(default_factory=list)
    imagined: list[Trajectory] = field(default_factory=list)  # z [T, P, D], proprio [T, Dp]
    feasible: list[bool] = field(default_factory=list)
    clearances: list[float] = field(default_factory=list)  # with guardrails only
    tried: list[list[Tried]] = field(default_factory=list)  # with --explain only
    encode_ms: list[float] = field(default_factory=list)  # one per encoded frame, as the next two
    distances: list[float] = field(default_factory=list)
    distance_steps: list[int] = field(default_factory=list)
    interventions: list[int] = field(default_factory=list)  # steps in which a guardrail stepped in
    surprises: list[int] = field(default_factory=list)  # steps in which something unusual was seen
    stop_reason: str | None = None


# ------------------------------------------------------------------------------------ one plan
def plan_once(config: PlanConfig) -> dict[str, Any]:
    """One plan from ``--image``: actions ``[T*F][a]`` and what the model expects of them.

    Raises:
        UserError: an unusable image, checkpoint or proprio.
    """
    assert config.image is not None and config.checkpoint is not None
    planner, settings = make_planner(config.planner), config.agent_config()
    measured = None if config.proprio is None else _parse_proprio(config.proprio)
    model, encoder, info = load_checkpoint(config.checkpoint)
    goal, _ = load_goal(config.goal, info.image_size)
    pixels = load_image(config.image, info.image_size)
    agent = Agent(model, encoder, info, planner, settings)
    agent.reset(goal)
    proprio = agent.read_proprio(pixels) if measured is None else measured
    agent.act({"pixels": pixels, "proprio": proprio})
    plan = agent.last_plan
    assert plan is not None
    if agent.stop_reason:
        raise UserError(f"no plan to give: {agent.stop_reason}")
    return {
        "actions": agent.sequence(plan.actions)[0].float().cpu().tolist(),
        "cost": _number(plan.cost[0]),
        "latent_distance": _number(agent.distance[0]),
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


# --------------------------------------------------------------------------------- closed loop
def act_out(
    agent: Agent, env: gym.Env[Any, Any], goal: Array, start: tuple[Any, Any], steps: int, log: Log
) -> None:
    """Act for `steps` steps from `start` (what reset returned), entering all of it in `log`.

    The agent is not told of success, and a real robot could not be: it runs all the steps.
    """
    agent.reset(goal, steps=steps)
    obs, info = start
    log.frames.append(obs["pixels"])
    log.states.append(info["state"])
    for _ in show_progress(range(steps), steps, "acting", "step"):
        obs = act_once(agent, env, obs, log)


def act_once(agent: Agent, env: gym.Env[Any, Any], obs: Any, log: Log) -> Any:
    """One step from what is observed to what is then, entering it in `log`."""
    step, before = len(log.actions), agent.last_plan
    action = agent.act(obs)
    if step % agent.look == 0:
        log.encode_ms.append(agent.last_timings["encode_ms"])
        log.distances.append(float(agent.distance[0]))
        log.distance_steps.append(step)
    plan = agent.last_plan
    if plan is not None and plan is not before:
        log.costs.append(float(plan.cost[0]))
        log.plan_ms.append(agent.last_timings["plan_ms"])
        log.plan_steps.append(step)
        z, proprio = plan.trajectory
        assert proprio is not None
        log.imagined.append(Trajectory(z[0].float().cpu(), proprio[0].float().cpu()))
        log.feasible.append(bool(plan.feasible[0]))
        if plan.violations.shape[-1]:
            log.clearances.append(-float(plan.violations[0].max()))
        if isinstance(agent, ExplainingAgent):
            log.tried.append(agent.tried)
    log.stop_reason = agent.stop_reason or log.stop_reason
    if agent.intervened.any():
        log.interventions.append(step)
    if agent.alarmed.any():
        log.surprises.append(step)
    obs, _, _, _, info = env.step(action)
    log.frames.append(obs["pixels"])
    log.states.append(info["state"])
    log.actions.append(action)
    return obs


def report(config: PlanConfig, log: Log, outcome: dict[str, Any] | None) -> dict[str, Any]:
    """What ``report.json`` holds."""
    return {
        "env": config.env,
        "checkpoint": config.checkpoint or bundled_for(config.env or ""),
        "goal": str(config.goal),
        "planner": config.planner,
        "seed": config.seed,
        "steps": len(log.actions),
        "budget_steps": config.steps,
        "outcome": outcome,
        "latent_distance": {
            "start": _number(log.distances[0]) if log.distances else None,
            "end": _number(log.distances[-1]) if log.distances else None,
        },
        "stop_reason": log.stop_reason,
        "interventions": log.interventions,
        "surprises": log.surprises,
        "actions": [action.tolist() for action in log.actions],
        "plans": [
            {"step": step, "cost": _number(cost), "plan_ms": round(ms, 3)}
            for step, cost, ms in zip(log.plan_steps, log.costs, log.plan_ms, strict=False)
        ],
        "encode_ms": [round(ms, 3) for ms in log.encode_ms],
    }


def _number(value: Any) -> float | None:
    """JSON has no word for NaN."""
    return float(value) if math.isfinite(float(value)) else None


# ------------------------------------------------------------------------------------- pictures
def drawn_regions(env: gym.Env[Any, Any], rules: Sequence[Rule]) -> list[tuple[Array, bool]]:
    """The regions of guardrails and their margins, as polygons in shares of the image, and whether
    to shade them."""
    world: Any = env.unwrapped
    return [
        (world.in_image(outline), shaded)
        for rule in rules
        for outline, shaded in (
            (rule.outline(), rule.kind == "no_go"),
            (rule.margin_outline(), False),
        )
        if outline is not None
    ]


def film(
    agent: Agent,
    decoder: Decoder | None,
    log: Log,
    goal: Array,
    first_success: int | None,
    regions: list[tuple[Array, bool]],
    in_image: Callable[[Array], Array],
) -> Film:
    """What the log shows; what was imagined only where there is a decoder. `in_image` says where in
    the image points of the table are."""
    made = list(zip(log.plan_steps, log.imagined, log.feasible, strict=False))
    where = agent.senses.find(("x", "y"), whole=False)
    # Without a plan, as after an early Ctrl-C, there is no problem either.
    units = {rail.unit for rail in agent.problem().guardrails} if log.clearances else set()
    return Film(
        frames=log.frames,
        goal=goal,
        first_success=first_success,
        regions=regions,
        interventions=log.interventions,
        surprises=log.surprises,
        imagined=[
            Imagination(
                step,
                decoder.paint(expected.z),
                agent.frameskip,
                feasible,
                None if where is None else in_image(where(expected).numpy()),
            )
            for step, expected, feasible in made
        ]
        if decoder
        else (),
        distances=list(zip(log.distance_steps, log.distances, strict=False)),
        clearances=list(zip(log.plan_steps, log.clearances, strict=False)),
        unit=units.pop() if len(units) == 1 else "",
    )


def explained(
    decoder: Decoder | None,
    log: Log,
    regions: list[tuple[Array, bool]],
    in_image: Callable[[Array], Array],
) -> list[Image.Image]:
    """How the candidates of each plan converge, as far as an animation goes."""
    pictures: list[Image.Image] = []
    for step, batches in zip(log.plan_steps, log.tried, strict=False):
        if len(pictures) + len(batches) > MOST_FRAMES:
            break
        plan = [(tried, decoder.paint(tried.best) if decoder else None) for tried in batches]
        title = f"the plan of step {step}"
        pictures += converging(log.frames[step], plan, in_image, title, regions)
    return pictures


def draw_costs(log: Log) -> bytes:
    """A PNG of the latent distance to the goal and the cost of each plan over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    count = min(len(log.distances), len(log.distance_steps))
    axes.plot(
        log.distance_steps[:count], log.distances[:count], "o-", ms=3, label="now: latent distance"
    )
    count = min(len(log.costs), len(log.plan_steps))
    axes.plot(log.plan_steps[:count], log.costs[:count], "s--", ms=3, label="cost of the plan")
    axes.set(xlabel="environment step", ylabel="mean squared distance to the goal", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    return as_png(figure)


# ---------------------------------------------------------------------------------- the command
def _start(
    config: PlanConfig, env: gym.Env[Any, Any], sidecar: GoalFile | None
) -> tuple[tuple[Any, Any], Array | None]:
    """What reset returns, from the goal's own start if it has one; and the goal's state."""
    if sidecar is None:
        return env.reset(seed=config.seed), None
    try:
        # The state of the goal is for the judge; the environment needs it only to show success.
        goal_state = np.asarray(sidecar.goal_state, np.float64)
        options = {"state": sidecar.start_state, "goal_state": goal_state}
        return env.reset(seed=config.seed, options=options), goal_state
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{config.goal.with_suffix('.json')} does not fit {config.env}: {error}"
        ) from None


def closed_loop(config: PlanConfig) -> int:
    """Run ``--env``, write the files, print a summary; the exit status."""
    assert config.env is not None
    planner, settings = make_planner(config.planner), config.agent_config()
    name = config.checkpoint or bundled_for(config.env)
    model, encoder, info = load_checkpoint(name)
    goal, sidecar = load_goal(config.goal, info.image_size)
    if sidecar is not None and not same_env(sidecar.env, config.env):
        raise UserError(f"{config.goal} is a goal of {sidecar.env}, not of {config.env}")
    theirs = sidecar.env_kwargs if sidecar else info.env_kwargs
    env = make_env(config.env, config.env_kwargs or theirs, info.image_size)
    check_fits(env, info)
    kind = ExplainingAgent if config.explain else Agent
    agent = kind(model, encoder, info, planner, settings)
    decoder = load_decoder(name, model, info)
    start, goal_state = _start(config, env, sidecar)
    writable_folder(config.out)

    log, interrupted = Log(), False
    try:
        act_out(agent, env, goal, start, config.steps, log)
    except KeyboardInterrupt:
        interrupted = True
    steps = len(log.actions)  # Ctrl-C may have fallen between two of the lists
    del log.frames[steps + 1 :], log.states[steps + 1 :]
    if not log.states:
        raise KeyboardInterrupt
    outcome = None if goal_state is None else episode_outcome(env, log.states, goal_state)
    first = outcome["first_success_step"] if outcome else None
    atomic_write_json(config.out / "report.json", report(config, log, outcome))
    world: Any = env.unwrapped
    regions = drawn_regions(env, agent.rules)
    pictures = animate(film(agent, decoder, log, goal, first, regions, world.in_image))
    atomic_write_bytes(config.out / "plan.gif", as_gif(pictures))
    atomic_write_bytes(config.out / "plan.mp4", as_mp4(pictures))
    atomic_write_bytes(config.out / "cost.png", draw_costs(log))
    if config.explain:
        pictures = explained(decoder, log, regions, world.in_image)
        atomic_write_bytes(config.out / "explain.gif", as_gif(pictures, fps=4))
    env.close()
    print(summary(config, log, outcome))
    if interrupted:
        raise KeyboardInterrupt
    return 0


def summary(config: PlanConfig, log: Log, outcome: dict[str, Any] | None) -> str:
    """One line for people."""
    steps = len(log.actions)
    if outcome is None:
        ends = [f"{distance:.3g}" for distance in (log.distances or [math.nan])]
        said = f"{steps} steps; latent distance to the goal from {ends[0]} to {ends[-1]}"
    elif outcome["success_any"]:
        said = f"goal reached at step {outcome['first_success_step']} of {steps}"
        said += "" if outcome["success_final"] else ", and left again"
    else:
        said = f"goal not reached in {steps} steps"
    if log.plan_ms:
        said += f"; {float(np.median(log.plan_ms)) / 1e3:.2g} s a plan"
    if log.stop_reason:
        said += f"; stood still at times ({log.stop_reason})"
    if log.interventions:
        said += f"; guardrails stepped in at {len(log.interventions)} steps"
    if log.surprises:
        said += f"; surprised at {len(log.surprises)} steps"
    return f"{said}; wrote {config.out / 'plan.gif'}"


@run_command
def main(argv: list[str] | None = None) -> int | None:
    """Act in an environment, or make one plan from an image."""
    config = parse_config(PlanConfig, argv, "worldmodel.plan", "Plan towards a goal image.")
    if config.image is not None:
        print(json.dumps(plan_once(config), allow_nan=False))
        return 0
    return closed_loop(config)
