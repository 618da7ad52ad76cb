"""Closed-loop episodes: an agent, or random actions, on sampled tasks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.exploration import explorer
from envs.task import task_of
from worldmodel.agent import Agent
from worldmodel.cli import Progress
from worldmodel.cli import progress as show_progress
from worldmodel.measure.environments import make_env
from worldmodel.measure.tasks import GoalTask, begin, render_goal

Array = NDArray[Any]


@dataclass
class RolloutLog:
    """What an agent did in each episode.

    Attributes:
        keep_latents: whether to fill `latents`, which are large.
        stopped: per episode, bool ``[steps]``: it had no plan and held still.
        intervened: per episode, bool ``[steps]``: its action was not the plan's.
        surprised: per episode, bool ``[steps]``.
        planned_at: per episode, the steps of its plans ``[plans]``.
        distances: per episode, the latent distance to the goal at each plan ``[plans]``.
        violations: per episode, the predicted violations of each plan ``[plans, T, G]``.
        latents: per episode, the predicted latents of each plan ``[plans, T, P, D]``.
        decision_ms: milliseconds from observation to action, for each plan of a batch.
        model_calls: model steps of each plan of a batch.
    """

    keep_latents: bool = False
    stopped: list[Array] = field(default_factory=list)
    intervened: list[Array] = field(default_factory=list)
    surprised: list[Array] = field(default_factory=list)
    planned_at: list[Array] = field(default_factory=list)
    distances: list[Array] = field(default_factory=list)
    violations: list[Array] = field(default_factory=list)
    latents: list[Array] = field(default_factory=list)
    decision_ms: list[float] = field(default_factory=list)
    model_calls: list[int] = field(default_factory=list)


@dataclass
class _BatchLog:
    """The same for one batch of E episodes, step by step and plan by plan."""

    stopped: list[list[bool]] = field(default_factory=list)
    intervened: list[list[bool]] = field(default_factory=list)
    surprised: list[list[bool]] = field(default_factory=list)
    planned_at: list[int] = field(default_factory=list)
    distances: list[Array] = field(default_factory=list)
    violations: list[Array] = field(default_factory=list)
    latents: list[Array] = field(default_factory=list)

    def add_step(self, agent: Agent) -> None:
        self.stopped.append([reason is not None for reason in agent.stop_reasons])
        self.intervened.append(agent.intervened.tolist())
        self.surprised.append(agent.alarmed.tolist())

    def add_plan(self, step: int, agent: Agent, keep_latents: bool) -> None:
        plan = agent.last_plan
        assert plan is not None
        self.planned_at.append(step)
        self.distances.append(agent.distance.cpu().numpy())
        self.violations.append(plan.violations.cpu().numpy())
        if keep_latents:
            self.latents.append(plan.trajectory.z.float().cpu().numpy())

    def add_to(self, log: RolloutLog, episodes: int) -> None:
        """Append the batch to `log`, one entry an episode."""
        log.stopped += list(np.array(self.stopped).T)
        log.intervened += list(np.array(self.intervened).T)
        log.surprised += list(np.array(self.surprised).T)
        log.planned_at += [np.array(self.planned_at)] * episodes
        for name in ("distances", "violations", "latents"):
            if values := getattr(self, name):
                getattr(log, name).extend(np.stack(values, 1))


def run_agent(
    agent: Agent,
    envs: Sequence[gym.Env[Any, Any]],
    tasks: Sequence[GoalTask],
    budget_steps: int,
    seed: int = 0,
    variation: Sequence[str] = (),
    log: RolloutLog | None = None,
) -> list[Array]:
    """Run an agent on tasks, as many at once as there are environments.

    Args:
        agent: it sees pixels and proprio only.
        envs: copies of one environment.
        tasks: starts and goals.
        budget_steps: environment steps of every episode.
        seed: of the planner.
        variation: what every episode changes.
        log: filled with what the agent did.

    Returns:
        The states of each episode ``[budget_steps + 1, Ds]``, for measuring success.
    """
    log = RolloutLog() if log is None else log
    paths: list[Array] = []
    bar: Progress[int]
    with show_progress(None, len(tasks) * budget_steps, "episodes", "step") as bar:
        for number, start in enumerate(range(0, len(tasks), len(envs))):
            batch = tasks[start : start + len(envs)]
            paths += _run_batch(
                agent, envs, batch, budget_steps, mix(seed, number), variation, log, bar
            )
    return paths


def _run_batch(
    agent: Agent,
    envs: Sequence[gym.Env[Any, Any]],
    tasks: Sequence[GoalTask],
    budget_steps: int,
    seed: int,
    variation: Sequence[str],
    log: RolloutLog,
    bar: Progress[int],
) -> list[Array]:
    """The states of one batch of episodes, at most one an environment."""
    pairs = list(zip(envs, tasks, strict=False))
    first = [begin(env, task, variation) for env, task in pairs]
    goals = [render_goal(env, task) for env, task in pairs]
    agent.reset(np.stack(goals), seed, budget_steps)
    states = [[info["state"] for _, info in first]]
    observations = [obs for obs, _ in first]
    batch_log, plan = _BatchLog(), None
    for step in range(budget_steps):
        stacked = {k: np.stack([obs[k] for obs in observations]) for k in observations[0]}
        asked = time.perf_counter()
        actions = agent.act(stacked)
        if agent.last_plan is not None and agent.last_plan is not plan:
            plan = agent.last_plan
            log.decision_ms.append(1e3 * (time.perf_counter() - asked))
            log.model_calls.append(plan.model_calls)
            batch_log.add_plan(step, agent, log.keep_latents)
        batch_log.add_step(agent)
        results = [env.step(action) for (env, _), action in zip(pairs, actions, strict=True)]
        observations = [result[0] for result in results]
        states.append([result[4]["state"] for result in results])
        bar.update(len(pairs))
    batch_log.add_to(log, len(pairs))
    return list(np.stack(states, 1))


def run_random(
    env: gym.Env[Any, Any],
    tasks: Sequence[GoalTask],
    budget_steps: int,
    seed: int,
    variation: Sequence[str] = (),
) -> list[Array]:
    """The states of each episode under random actions ``[budget_steps + 1, Ds]``: the floor."""
    world = task_of(env)
    paths = []
    for number, task in enumerate(show_progress(tasks, len(tasks), "random", "episode")):
        begin(env, task, variation)
        policy = explorer(env, "random", np.random.default_rng([seed, number]))
        actions = np.stack([policy(None, {}) for _ in range(budget_steps)])
        paths.append(world.physics(task.start_state, actions))
    return paths


@contextlib.contextmanager
def env_copies(
    env_id: str, env_kwargs: dict[str, Any], image_size: int, count: int
) -> Iterator[list[gym.Env[Any, Any]]]:
    """Copies of one environment, closed at the end of the ``with`` block."""
    envs: list[gym.Env[Any, Any]] = []
    try:
        for _ in range(count):
            envs.append(make_env(env_id, env_kwargs, image_size))
        yield envs
    finally:
        for env in envs:
            env.close()


def mix(*numbers: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
