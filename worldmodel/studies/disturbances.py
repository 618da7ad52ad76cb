"""Detection of disturbances by prediction errors.

    python -m worldmodel.studies disturbances --env worldmodel/PushT-v0

Episodes of held-out seeds run with an exploration policy, some undisturbed, the others with one
disturbance of the environment's task (`envs.task.Task.disturb`). The prediction errors of each step
are compared with their usual size, which `python -m worldmodel.surprise` stored with the
checkpoint. For each disturbance, the study reports:

    AUROC      of the most surprising step in the window after the disturbance, against windows of
               undisturbed episodes
    detected   fraction of windows with an alarm (a p-value below ``--alarm``)
    delay      median number of steps until the alarm

and false alarms: fractions of undisturbed steps and episodes. Disturbances that show only in
contact happen in contact; the windows that they are compared with begin in contact, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from worldmodel.control.surprise import UsualErrors
from worldmodel.errors import UserError
from worldmodel.measure.prediction_errors import FIRST, SEEDS, WINDOW, WatchedEpisode, Watcher
from worldmodel.measure.statistics import in_percent, rate_interval
from worldmodel.models.checkpoint import bundled_for
from worldmodel.studies.study import Study

Array = NDArray[Any]
LATER = SEEDS // 2  # these seeds follow those of `worldmodel.surprise`


@dataclass(frozen=True)
class DisturbancesConfig:
    """Which episodes to compare."""

    env: str
    """Gymnasium id, such as worldmodel/PushT-v0."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment; default: the checkpoint's."""
    checkpoint: str | None = None
    """Bundled name, folder or hf:USER/NAME; default: the one bundled for the environment."""
    policy: str = "explore"
    """Exploration policy: explore, random, or another of the environment's task."""
    episodes: int = 100
    """Undisturbed episodes, and episodes of each disturbance."""
    steps: int = 50
    """Environment steps of every episode."""
    alarm: float = 0.001
    """p-value below which a step is an alarm."""
    seed: int = 0
    """Seed of episodes and disturbances."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: Path = Path("out/disturbances.json")
    """JSON file for the result."""

    def __post_init__(self) -> None:
        if self.episodes < 2:
            raise UserError(f"episodes is {self.episodes}: it must be at least 2")
        if self.steps <= FIRST + WINDOW:
            raise UserError(f"steps is {self.steps}: it must be above {FIRST + WINDOW}")
        if not 0 < self.alarm < 1:
            raise UserError(f"alarm is {self.alarm}: it must lie between 0 and 1")


def disturbances(config: DisturbancesConfig) -> dict[str, Any]:
    """Run the study.

    Raises:
        UserError: the checkpoint does not store usual errors, or is for another environment.
    """
    checkpoint = config.checkpoint or bundled_for(config.env)
    first = config.seed * SEEDS + LATER
    with Watcher(checkpoint, config.env, config.env_kwargs, config.device) as watcher:
        expectation = UsualErrors.of(watcher.info)

        def episodes(what: str, disturbance: str = "") -> list[WatchedEpisode]:
            size = (config.steps, first, config.episodes)
            return watcher.episodes(what, config.policy, *size, disturbance)

        usual = episodes("undisturbed")
        alarms = np.stack([p_values(expectation, each.errors) for each in usual]) < config.alarm
        found = {}
        for name in watcher.task.disturbances:
            in_contact = name in watcher.task.contact_disturbances
            before = [
                window(each.errors, random_start(each.contact, in_contact, number))
                for number, each in enumerate(usual)
            ]
            after = [window(each.errors, each.disturbed) for each in episodes(name, name)]
            before, after = ([w for w in windows if len(w)] for windows in (before, after))
            if before and after:
                found[name] = detection(expectation, after, before, config.alarm)
    return {
        "env": config.env,
        "checkpoint": checkpoint,
        "policy": config.policy,
        "steps": config.steps,
        "alarm": config.alarm,
        "window": WINDOW,
        "episodes": config.episodes,
        "seed": config.seed,
        "false_alarms": {
            "per_step": rate_interval(alarms.ravel()),
            "per_episode": rate_interval(np.any(alarms, 1)),
        },
        "disturbances": found,
    }


def random_start(contact: Array, in_contact: bool, seed: int) -> int | None:
    """First step of a window in an undisturbed episode: random, or the first in contact after it;
    None where there is none. `contact`: bool ``[steps]``."""
    at = int(np.random.default_rng([seed, 2]).integers(FIRST, len(contact) - WINDOW))
    if not in_contact:
        return at
    touching = np.flatnonzero(contact[at:])
    return at + int(touching[0]) if len(touching) else None


def window(errors: Array, start: int | None) -> Array:
    """Errors ``[WINDOW, 3]`` of the steps from `start` on; empty where the episode ends earlier."""
    if start is None or start + WINDOW > len(errors):
        return errors[:0]
    return errors[start : start + WINDOW]


def p_values(expectation: UsualErrors, errors: Array) -> Array:
    """p-values ``[n]`` of errors ``[n, 3]``."""
    found: Array = expectation.p_value(torch.from_numpy(errors)).numpy()
    return found


def auroc(positive: Array, negative: Array) -> float:
    """Area under the ROC curve of scores ``[n]`` and ``[m]``: the Mann-Whitney U statistic over
    n m."""
    u = stats.mannwhitneyu(positive, negative).statistic
    return float(u / (len(positive) * len(negative)))


def detection(
    expectation: UsualErrors, after: list[Array], before: list[Array], alarm: float
) -> dict[str, Any]:
    """How well windows of errors ``[WINDOW, 3]`` after a disturbance differ from undisturbed
    ones."""

    def worst(windows: list[Array]) -> Array:
        scores: Array = expectation.score(torch.from_numpy(np.stack(windows))).amax(1).numpy()
        return scores

    alarms = np.stack([p_values(expectation, each) for each in after]) < alarm
    detected = np.any(alarms, 1)
    delays = alarms.argmax(1)[detected] + 1
    return {
        "episodes": len(after),
        "auroc": auroc(worst(after), worst(before)),
        "detected": rate_interval(detected),
        "delay": float(np.median(delays)) if len(delays) else None,
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    alarms = result["false_alarms"]
    rows = [
        f"{result['env']}, checkpoint {result['checkpoint']}: alarms at p < {result['alarm']:g}",
        "",
        f"| disturbance | episodes | AUROC | detected within {result['window']} steps "
        "| median delay, steps |",
        "|---" * 5 + "|",
    ]
    for name, found in result["disturbances"].items():
        delay = "" if found["delay"] is None else f"{found['delay']:g}"
        rows.append(
            f"| {name} | {found['episodes']} | {found['auroc']:.3f} "
            f"| {in_percent(found['detected'])} | {delay} |"
        )
    rows += [
        "",
        f"False alarms: {in_percent(alarms['per_step'])} of steps, "
        f"{in_percent(alarms['per_episode'])} of {result['episodes']} episodes of "
        f"{result['steps']} steps.",
    ]
    return "\n".join(rows)


STUDY = Study(DisturbancesConfig, disturbances, table)
