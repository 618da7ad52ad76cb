"""Animations of the worst episodes of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from envs.task import task_of
from worldmodel.agent import Agent
from worldmodel.cli import atomic_write_bytes, atomic_write_text, writable_folder
from worldmodel.control.guardrails import Rule
from worldmodel.measure.film import (
    Film,
    Imagination,
    animate,
    as_gif,
    as_mp4,
    guardrail_regions,
)
from worldmodel.measure.outcomes import Outcomes, episode_outcome, task_distance
from worldmodel.measure.rollouts import RolloutLog
from worldmodel.measure.tasks import GoalTask, begin, render
from worldmodel.models.decoder import Decoder

Array = NDArray[Any]


def worst(
    env: gym.Env[Any, Any],
    paths: Sequence[Array],
    tasks: Sequence[GoalTask],
    outcomes: Outcomes,
    count: int = 10,
) -> list[int]:
    """The numbers of the `count` worst episodes, the worst first: failures, then episodes that left
    the goal again, then the rest, each by their final distance to the goal.

    Args:
        env: its `envs.task.Task` measures the distance.
        paths: states of each episode ``[steps + 1, Ds]``.
        tasks: of the same episodes.
        outcomes: of the same episodes.
        count: at most.
    """
    ends = [
        float(task_distance(env, path[-1], task.goal_state))
        for path, task in zip(paths, tasks, strict=True)
    ]
    order = np.lexsort((np.negative(ends), outcomes.success_final, outcomes.success_any))
    return [int(number) for number in order[:count]]


def agent_view(
    env: gym.Env[Any, Any],
    rules: Sequence[Rule],
    log: RolloutLog,
    agent: Agent,
    decoder: Decoder | None,
    number: int,
) -> dict[str, Any]:
    """The fields of a `Film` that show what the agent imagined in episode `number`."""
    steps = log.planned_at[number].tolist()
    found: dict[str, Any] = {
        "regions": guardrail_regions(env, rules),
        "distances": list(zip(steps, log.distances[number], strict=True)),
    }
    if decoder is not None:
        found["imagined"] = [
            Imagination(step, decoder.paint(torch.from_numpy(z)), agent.frameskip)
            for step, z in zip(steps, log.latents[number], strict=True)
        ]
    if (violations := log.violations[number]).size:
        found["clearances"] = list(zip(steps, -violations.max((1, 2)), strict=True))
    return found


def save_failures(
    folder: Path,
    env: gym.Env[Any, Any],
    paths: Sequence[Array],
    tasks: Sequence[GoalTask],
    outcomes: Outcomes,
    variation: Sequence[str] = (),
    view: Callable[[int], dict[str, Any]] = lambda number: {},
) -> None:
    """Write the worst episodes as ``01.gif``, ``01.mp4`` and so on, and a ``README.md`` that shows
    them in a table with their errors at the start and at the end.

    Args:
        folder: where to write.
        env: the environment.
        paths: states of each episode ``[steps + 1, Ds]``.
        tasks: of the same episodes.
        outcomes: of the same episodes.
        variation: what every episode changed.
        view: further fields of the `Film` of an episode, by its number.

    Raises:
        UserError: the folder is not writable.
    """
    writable_folder(folder)
    errors = task_of(env).errors
    chosen = worst(env, paths, tasks, outcomes)
    names = list(errors(tasks[0].start_state, tasks[0].goal_state))
    rows = [
        f"The worst {len(chosen)} of {len(tasks)} episodes; errors at the start > at the end.",
        "",
        f"| | {' | '.join(['episode', 'seed', 'success', *names])} |",
        "|---" * (4 + len(names)) + "|",
    ]
    for place, number in enumerate(chosen, 1):
        path, task = paths[number], tasks[number]
        begin(env, task, variation)
        first = episode_outcome(env, list(path), task.goal_state)["first_success_step"]
        before, after = (errors(path[at], task.goal_state) for at in (0, -1))
        film = Film(
            [render(env, state) for state in path],
            render(env, task.goal_state),
            label=", ".join(_short(name, after[name]) for name in names) or "goal",
            first_success=first,
            **view(number),
        )
        pictures, image = animate(film), f"{place:02d}.gif"
        atomic_write_bytes(folder / image, as_gif(pictures))
        atomic_write_bytes((folder / image).with_suffix(".mp4"), as_mp4(pictures))
        success = "never" if first is None else f"at step {first}"
        success += ", to the end" if outcomes.success_final[number] else ""
        cells = [f"![episode {number}]({image})", str(number), str(task.env_seed), success]
        cells += [f"{before[name]:.1f} > {after[name]:.1f}" for name in names]
        rows.append(f"| {' | '.join(cells)} |")
    atomic_write_text(folder / "README.md", "\n".join(rows) + "\n")


def _short(name: str, value: float) -> str:
    """An error such as "block 3.2 mm", from the name "block, mm"."""
    quantity, _, unit = name.partition(", ")
    return f"{quantity} {value:.1f}{'°' if unit == 'degrees' else f' {unit}'}"
