"""One episode in closed loop, with a log of all that happens."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from numpy.typing import NDArray

from planners import Trajectory
from worldmodel.agent import Agent
from worldmodel.cli import progress as show_progress
from worldmodel.measure.explanation import RecordingPlanner, SearchBatch

Array = NDArray[Any]


@dataclass
class EpisodeLog:
    """What happened so far in an episode.

    Attributes:
        frames: camera images, before the first step and after each.
        actions: executed actions.
        states: simulator states, for measuring success only.
        costs, plan_ms, plan_steps, imagined, feasible: one entry a plan. An imagined trajectory has
            ``z`` ``[T, P, D]`` and ``proprio`` ``[T, Dp]``.
        clearances: one entry a plan, with guardrails only: predicted distance from a violation.
        candidates: one entry a plan, with a `RecordingPlanner` only.
        encode_ms, distances, distance_steps: one entry an encoded frame.
        interventions: steps in which a guardrail changed the action.
        surprises: steps with a surprise.
        stop_reason: why the robot last stopped, or None.
    """

    frames: list[Array] = field(default_factory=list)
    actions: list[Array] = field(default_factory=list)
    states: list[Array] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    plan_ms: list[float] = field(default_factory=list)
    plan_steps: list[int] = field(default_factory=list)
    imagined: list[Trajectory] = field(default_factory=list)
    feasible: list[bool] = field(default_factory=list)
    clearances: list[float] = field(default_factory=list)
    candidates: list[list[SearchBatch]] = field(default_factory=list)
    encode_ms: list[float] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    distance_steps: list[int] = field(default_factory=list)
    interventions: list[int] = field(default_factory=list)
    surprises: list[int] = field(default_factory=list)
    stop_reason: str | None = None


def run_episode(
    agent: Agent, env: gym.Env[Any, Any], start: tuple[Any, Any], steps: int, log: EpisodeLog
) -> None:
    """Act for `steps` steps and log them. The agent does not know when it has succeeded.

    Args:
        agent: it was reset with the goal.
        env: the environment.
        start: what the environment's reset returned.
        steps: environment steps.
        log: is filled.
    """
    obs, info = start
    log.frames.append(obs["pixels"])
    log.states.append(info["state"])
    for _ in show_progress(range(steps), steps, "acting", "step"):
        obs = act_once(agent, env, obs, log)


def act_once(agent: Agent, env: gym.Env[Any, Any], obs: Any, log: EpisodeLog) -> Any:
    """Take one step, log it, and return the next observation."""
    step, before = len(log.actions), agent.last_plan
    action = agent.act(obs)
    if step % agent.look == 0:
        log.encode_ms.append(agent.last_timings["encode_ms"])
        log.distances.append(float(agent.distance[0]))
        log.distance_steps.append(step)
    if agent.last_plan is not None and agent.last_plan is not before:
        _log_plan(agent, step, log)
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


def _log_plan(agent: Agent, step: int, log: EpisodeLog) -> None:
    """Log the latest plan."""
    plan = agent.last_plan
    assert plan is not None and plan.trajectory.proprio is not None
    log.costs.append(float(plan.cost[0]))
    log.plan_ms.append(agent.last_timings["plan_ms"])
    log.plan_steps.append(step)
    z, proprio = plan.trajectory.z[0], plan.trajectory.proprio[0]
    log.imagined.append(Trajectory(z.float().cpu(), proprio.float().cpu()))
    log.feasible.append(bool(plan.feasible[0]))
    if plan.violations.shape[-1]:
        log.clearances.append(-float(plan.violations[0].max()))
    if isinstance(agent.planner, RecordingPlanner):
        log.candidates.append(agent.planner.recorded)


def finite(value: Any) -> float | None:
    """A number for JSON, which has no word for NaN or infinity."""
    return float(value) if math.isfinite(float(value)) else None
