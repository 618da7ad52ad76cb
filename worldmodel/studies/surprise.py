"""What is usual, and whether what is not is noticed.

    python -m worldmodel.surprise --env worldmodel/PushT-v0

Episodes of held-out seeds, in which nothing but the robot moves things, say how large the errors of
what the model expects usually are: those limits are kept with the checkpoint (`--save`). Then come
further usual episodes, and some in which something happens that cannot be expected: see
`envs.disturbances`.
What is reported of each event:

    AUROC        of the most surprising step of the window after it, beside usual windows: how often
                 the one is more surprising than the other
    noticed      share of windows with an alarm (a p-value below `--alarm`), and in the median how
                 many steps after the event
    false alarms share of usual steps, and of usual episodes

Events that show only in contact (`friction`, `ghost`) happen in contact, as do the usual windows
that they are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

import planners
from envs.exploration import explorer
from envs.task import task_of
from worldmodel.agent import Agent, AgentConfig
from worldmodel.cli import atomic_write_json, parse_config
from worldmodel.cli import progress as show_progress
from worldmodel.cli import run as run_command
from worldmodel.control.expectation import WATCHED, Expectation
from worldmodel.errors import UserError
from worldmodel.measure.statistics import in_percent, rate_interval
from worldmodel.measure.tasks import HELD_OUT, check_fits, make_env
from worldmodel.models.checkpoint import CheckpointInfo, bundled_for, load_checkpoint, write_finding

Array = NDArray[Any]
WINDOW = 10  # environment steps after an event in which it has to be noticed
FIRST = 10  # earliest step of an event


@dataclass(frozen=True)
class SurpriseConfig:
    """What to watch, and how often."""

    env: str
    """Gymnasium id, such as worldmodel/PushT-v0."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment; default: the checkpoint's."""
    checkpoint: str | None = None
    """Bundled name or folder; default: the one bundled for the environment."""
    policy: str = "explore"
    """What the robot does: explore, wild or random."""
    usual: int = 400
    """Episodes that say what is usual."""
    episodes: int = 100
    """Episodes of each event, and as many further usual ones."""
    steps: int = 50
    """Environment steps of every episode."""
    alarm: float = 0.001
    """p-value below which a step is an alarm."""
    seed: int = 0
    """Of episodes and events."""
    save: bool = False
    """Keep in the checkpoint what is usual."""
    out: Path | None = None
    """JSON file to write."""

    def __post_init__(self) -> None:
        for name in ("usual", "episodes"):
            if getattr(self, name) < 2:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 2")
        if self.steps < FIRST + WINDOW:
            raise UserError(f"steps is {self.steps}: it must be at least {FIRST + WINDOW}")
        if not 0 < self.alarm < 1:
            raise UserError(f"alarm is {self.alarm}: a p-value lies between 0 and 1")


# ------------------------------------------------------------------------------------ episodes
def run_episode(
    agent: Agent, env: gym.Env[Any, Any], policy: str, steps: int, seed: int, event: str = ""
) -> tuple[Array, Array, int | None]:
    """One episode, watched.

    Returns:
        Errors of each step after the first ``[steps, 3]``, whether the robot touched something
        before it ``[steps]``, and the first step that shows the event, or None.
    """
    rng = np.random.default_rng([seed, 1])
    obs, info = env.reset(seed=HELD_OUT + seed)
    act = explorer(env, policy, np.random.default_rng([seed, 0]))
    agent.reset(obs["pixels"])
    agent.observe(obs)
    at = int(rng.integers(FIRST, steps - WINDOW))
    errors, contact, shown = [], [], None
    task = task_of(env)
    with task.undo_disturbances():
        for step in range(steps):
            due = event and shown is None and step >= at
            if due and (event not in task.contact_disturbances or info["contact"]):
                task.disturb(event, rng)
                shown = step
            action = act(obs, info)
            agent.took(torch.as_tensor(action, dtype=torch.float32)[None])
            contact.append(bool(info["contact"]))
            obs, _, _, _, info = env.step(action)
            agent.observe(obs)
            errors.append(agent.errors[0].numpy().copy())
    return np.array(errors), np.array(contact), shown


def watcher(checkpoint: str, info: CheckpointInfo, parts: tuple[Any, Any]) -> Agent:
    """An agent that watches every step, whether or not it is known what is usual."""
    unknown = Expectation.from_errors(np.ones((1, len(WATCHED)))).as_json()
    info = replace(info, surprise=unknown)
    return Agent(*parts, info, planners.make("cem"), AgentConfig(execute=1, alarm=0.5))


def surprise(config: SurpriseConfig) -> dict[str, Any]:
    """Find what is usual, plant events, and report; keeps it with the checkpoint if asked to.

    Raises:
        UserError: the checkpoint is not for this environment, or anything else in `config`.
    """
    checkpoint = config.checkpoint or bundled_for(config.env)
    model, encoder, info = load_checkpoint(checkpoint)
    env = make_env(config.env, config.env_kwargs or info.env_kwargs, info.image_size)
    task = task_of(env)
    try:
        check_fits(env, info)
        agent = watcher(checkpoint, info, (model, encoder))

        def episodes(what: str, count: int, first: int, event: str = "") -> list[Any]:
            seeds = show_progress(range(first, first + count), count, what, "episode")
            return [
                run_episode(agent, env, config.policy, config.steps, seed, event) for seed in seeds
            ]

        first = config.seed * 10_000
        known = episodes("what is usual", config.usual, first)
        expectation = Expectation.from_errors(np.concatenate([errors for errors, _, _ in known]))
        further = episodes("usual", config.episodes, first + config.usual)
        alarms = np.stack([_alarms(expectation, errors, config) for errors, _, _ in further])
        result: dict[str, Any] = {
            "env": config.env,
            "checkpoint": checkpoint,
            "policy": config.policy,
            "steps": config.steps,
            "alarm": config.alarm,
            "usual": config.usual,
            "episodes": config.episodes,
            "seed": config.seed,
            "false_alarms": {
                "per_step": rate_interval(alarms.ravel()),
                "per_episode": rate_interval(np.any(alarms, 1)),
            },
            "events": {},
        }
        for event in task.disturbances:
            usual = [
                window
                for number, (errors, contact, _) in enumerate(further)
                if len(
                    window := _window(
                        errors, _start(contact, event in task.contact_disturbances, config, number)
                    )
                )
            ]
            planted = episodes(event, config.episodes, first + config.usual, event)
            after = [_window(errors, at) for errors, _, at in planted if at is not None]
            after = [window for window in after if len(window)]
            if after and usual:
                result["events"][event] = _report(expectation, after, usual, config)
    finally:
        env.close()
    if config.save:
        write_finding(checkpoint, "surprise", expectation.as_json())
    return result


def _start(contact: Array, in_contact: bool, config: SurpriseConfig, seed: int) -> int | None:
    """Where a usual window begins: anywhere, or in contact."""
    at = int(np.random.default_rng([seed, 2]).integers(FIRST, config.steps - WINDOW))
    if not in_contact:
        return at
    touching = np.flatnonzero(contact[at:])
    return at + int(touching[0]) if len(touching) else None


def _window(errors: Array, start: int | None) -> Array:
    """Errors of the steps after an event, none if the episode ends before they are over."""
    if start is None or start + WINDOW > len(errors):
        return errors[:0]
    return errors[start : start + WINDOW]


def _alarms(expectation: Expectation, errors: Array, config: SurpriseConfig) -> Array:
    """Whether each step ``[n]`` is an alarm."""
    p_value: Array = expectation.p_value(torch.from_numpy(errors)).numpy()
    return p_value < config.alarm


def _report(
    expectation: Expectation, after: list[Array], usual: list[Array], config: SurpriseConfig
) -> dict[str, Any]:
    """How well an event is told from what is usual; windows of errors ``[WINDOW, 3]`` each."""

    def worst(windows: list[Array]) -> Array:
        scores: Array = expectation.score(torch.from_numpy(np.stack(windows))).amax(1).numpy()
        return scores

    one, other = worst(after)[:, None], worst(usual)
    alarms = np.stack([_alarms(expectation, window, config) for window in after])
    noticed = np.any(alarms, 1)
    delays = alarms.argmax(1)[noticed] + 1
    return {
        "episodes": len(after),
        "auroc": float(((one > other) + 0.5 * (one == other)).mean()),
        "noticed": rate_interval(noticed),
        "delay": float(np.median(delays)) if len(delays) else None,
    }


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""

    alarms = result["false_alarms"]
    rows = [
        f"{result['env']}, checkpoint {result['checkpoint']}: alarms at p < {result['alarm']:g}",
        "",
        "| event | episodes | AUROC | noticed within 10 steps | steps until then, median |",
        "|---" * 5 + "|",
    ]
    for name, found in result["events"].items():
        delay = "" if found["delay"] is None else f"{found['delay']:g}"
        rows.append(
            f"| {name} | {found['episodes']} | {found['auroc']:.3f} "
            f"| {in_percent(found['noticed'])} | {delay} |"
        )
    rows += [
        "",
        f"False alarms: {in_percent(alarms['per_step'])} of steps, "
        f"{in_percent(alarms['per_episode'])} of {result['episodes']} episodes of "
        f"{result['steps']} steps.",
    ]
    return "\n".join(rows)


@run_command
def main(argv: list[str] | None = None) -> None:
    """Watch, print a table, keep what is usual."""
    config = parse_config(
        SurpriseConfig, argv, "worldmodel.surprise", "Find what is usual, and notice what is not."
    )
    if config.out is not None and not config.out.parent.is_dir():
        raise UserError(f"cannot write {config.out}: there is no folder {config.out.parent}")
    result = surprise(config)
    if config.out is not None:
        atomic_write_json(config.out, result)
    print(table(result))
