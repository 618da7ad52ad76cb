"""Prediction errors of a world model along episodes, and their usual size.

    python -m worldmodel.surprise --env worldmodel/PushT-v0

runs undisturbed episodes of held-out seeds with an exploration policy, measures how large the
errors of the model's predictions usually are, and stores their quantiles with the checkpoint. The
agent's alarm (``--agent.alarm``) and `worldmodel.wrappers.SurpriseMonitor` compare with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

import planners
from envs.exploration import explorer
from envs.task import task_of
from worldmodel.agent import Agent
from worldmodel.cli import progress
from worldmodel.cli.device import pick_device
from worldmodel.control.config import AgentConfig
from worldmodel.control.surprise import ERROR_NAMES, UsualErrors
from worldmodel.data.environments import VIEW_FLAGS
from worldmodel.errors import UserError
from worldmodel.measure.environments import check_fits, chosen_kwargs, make_env
from worldmodel.measure.tasks import HELD_OUT
from worldmodel.models.checkpoint import bundled_for, load_checkpoint, write_finding

Array = NDArray[Any]
FIRST = 10  # earliest environment step of a disturbance
WINDOW = 10  # environment steps after it in which it should be detected
SEEDS = 10_000  # episodes that one seed may take


@dataclass(frozen=True)
class SurpriseConfig:
    """Which episodes to measure."""

    SHORT: ClassVar = VIEW_FLAGS

    env: str
    """Gymnasium id, such as worldmodel/PushT-v0."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment; default: the checkpoint's."""
    checkpoint: str | None = None
    """Bundled name, folder or hf:USER/NAME; default: the one bundled for the environment."""
    policy: str = "explore"
    """Exploration policy: explore, random, or another of the environment's task."""
    episodes: int = 400
    """Number of episodes."""
    steps: int = 50
    """Environment steps of every episode."""
    seed: int = 0
    """Seed of the episodes."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: Path | None = None
    """JSON file to write."""

    def __post_init__(self) -> None:
        if self.episodes < 2:
            raise UserError(f"episodes is {self.episodes}: it must be at least 2")
        if self.steps <= FIRST + WINDOW:
            raise UserError(f"steps is {self.steps}: it must be above {FIRST + WINDOW}")


class WatchedEpisode(NamedTuple):
    """Prediction errors of one episode.

    Attributes:
        errors: after each environment step, ``[steps, 3]``, in the order of `ERROR_NAMES`.
        contact: whether the robot touched something before each step, bool ``[steps]``.
        disturbed: first step after the disturbance, or None.
    """

    errors: Array
    contact: Array
    disturbed: int | None


class Watcher:
    """Runs episodes in an environment and records the prediction errors of a checkpoint."""

    def __init__(
        self, checkpoint: str, env_id: str, env_kwargs: dict[str, Any], device: str = "auto"
    ) -> None:
        """Load the checkpoint and make the environment; `env_kwargs` default to the checkpoint's.

        Raises:
            UserError: they do not fit.
        """
        model, encoder, self.info = load_checkpoint(checkpoint, pick_device(device))
        kwargs = chosen_kwargs(env_kwargs, self.info.env_kwargs)
        self.env = make_env(env_id, kwargs, self.info.image_size, judged=False)
        check_fits(self.env, self.info)
        self.task = task_of(self.env)
        # Any quantiles turn the monitor on; only the errors are read.
        placeholder = UsualErrors.from_errors(np.ones((1, len(ERROR_NAMES)))).as_json()
        info = replace(self.info, surprise=placeholder)
        config = AgentConfig(execute=1, alarm=0.5)
        self.agent = Agent(model, encoder, info, planners.make("cem"), config, self.task.hold)

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.env.close()

    def episodes(
        self, what: str, policy: str, steps: int, first: int, count: int, disturbance: str = ""
    ) -> list[WatchedEpisode]:
        """Episodes of the held-out seeds from `first` on, with a line of progress about `what`."""
        seeds = progress(range(first, first + count), count, what, "episode")
        return [
            watch_episode(self.agent, self.env, self.task, policy, steps, seed, disturbance)
            for seed in seeds
        ]


def watch_episode(
    agent: Agent,
    env: gym.Env[Any, Any],
    task: Any,
    policy: str,
    steps: int,
    seed: int,
    disturbance: str = "",
) -> WatchedEpisode:
    """One episode of a held-out seed. The disturbance happens at a random step; one that shows only
    in contact waits for contact."""
    rng = np.random.default_rng([seed, 1])
    obs, info = env.reset(seed=HELD_OUT + seed)
    act = explorer(env, policy, np.random.default_rng([seed, 0]))
    agent.reset(obs["pixels"])
    agent.observe(obs)
    earliest = int(rng.integers(FIRST, steps - WINDOW))
    errors, contact, disturbed = [], [], None
    with task.undo_disturbances():
        for step in range(steps):
            touches = bool(info.get("contact", False))
            due = disturbance and disturbed is None and step >= earliest
            if due and (touches or disturbance not in task.contact_disturbances):
                task.disturb(disturbance, rng)
                disturbed = step
            action = act(obs, info)
            agent.took(torch.as_tensor(action, dtype=torch.float32)[None])
            contact.append(touches)
            obs, _, _, _, info = env.step(action)
            agent.observe(obs)
            errors.append(agent.perception.surprise.errors[0].cpu().numpy().copy())
    return WatchedEpisode(np.array(errors), np.array(contact), disturbed)


def measure_surprise(config: SurpriseConfig) -> dict[str, Any]:
    """Measure the usual prediction errors and store their quantiles with the checkpoint.

    Returns:
        What ``--out`` gets: the settings, and ``surprise`` with the quantiles.

    Raises:
        UserError: the checkpoint is for another environment.
    """
    checkpoint = config.checkpoint or bundled_for(config.env)
    with Watcher(checkpoint, config.env, config.env_kwargs, config.device) as watcher:
        watched = watcher.episodes(
            "usual errors", config.policy, config.steps, config.seed * SEEDS, config.episodes
        )
    found = UsualErrors.from_errors(np.concatenate([each.errors for each in watched])).as_json()
    write_finding(checkpoint, "surprise", found)
    return {
        "env": config.env,
        "checkpoint": checkpoint,
        "policy": config.policy,
        "episodes": config.episodes,
        "steps": config.steps,
        "seed": config.seed,
        "surprise": found,
    }


def quantile_table(result: dict[str, Any]) -> str:
    """Quantiles of the errors as Markdown."""
    found = result["surprise"]
    rows = [
        f"{result['env']}, checkpoint {result['checkpoint']}: squared prediction errors of "
        f"{result['episodes']} episodes of {result['steps']} steps",
        "",
        f"| fraction of steps with more | {' | '.join(found['limits'])} |",
        "|---" * (1 + len(found["limits"])) + "|",
    ]
    for number, level in enumerate(found["levels"]):
        cells = [f"{limits[number]:.4g}" for limits in found["limits"].values()]
        rows.append(f"| {level:.3g} | {' | '.join(cells)} |")
    return "\n".join(rows)
