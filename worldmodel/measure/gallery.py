"""The worst episodes of an evaluation as animations, because people look rather than read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.task import task_of
from worldmodel.cli import atomic_write_bytes, atomic_write_text, writable_folder
from worldmodel.measure.film import Film, animate, as_gif, as_mp4
from worldmodel.measure.outcomes import Outcomes, episode_outcome, task_distance
from worldmodel.measure.tasks import GoalTask, begin, render

Array = NDArray[Any]


def worst(
    env: gym.Env[Any, Any],
    paths: Sequence[Array],
    tasks: Sequence[GoalTask],
    outcomes: Outcomes,
    count: int = 10,
) -> list[int]:
    """The episodes that failed, or else left the goal again, or else came least close: numbers of
    the `count` worst ones, the worst first. Paths are states ``[steps + 1, Ds]``."""
    ends = [
        float(task_distance(env, path[-1], task.goal_state))
        for path, task in zip(paths, tasks, strict=True)
    ]
    order = np.lexsort((np.negative(ends), outcomes.success_final, outcomes.success_any))
    return [int(number) for number in order[:count]]


def save_failures(
    folder: Path,
    env: gym.Env[Any, Any],
    paths: Sequence[Array],
    tasks: Sequence[GoalTask],
    outcomes: Outcomes,
    variation: Sequence[str] = (),
    seen: Callable[[int], dict[str, Any]] = lambda number: {},
) -> None:
    """Write the worst episodes to `folder`: ``01.gif``, ``01.mp4`` and so on, the worst first, and
    ``README.md``, which shows them in a table with how far from the goal they began and ended.
    `seen` gives what the agent made of an episode, for its `Film`: what it imagined, distances.

    Raises:
        UserError: nothing can be written to the folder.
    """
    writable_folder(folder)
    chosen = worst(env, paths, tasks, outcomes)
    names = list(task_of(env).errors(tasks[0].start_state, tasks[0].goal_state))
    rows = [
        f"The worst {len(chosen)} of {len(tasks)} episodes; errors at the start > at the end.",
        "",
        f"| | episode | seed | success | {' | '.join(names)} |",
        "|---" * (4 + len(names)) + "|",
    ]
    for place, number in enumerate(chosen, 1):
        path, task = paths[number], tasks[number]
        begin(env, task, variation)
        frames = [render(env, state) for state in path]
        first = episode_outcome(env, list(path), task.goal_state)["first_success_step"]
        said = "never" if first is None else f"at step {first}"
        if outcomes.success_final[number]:
            said += ", to the end"
        before, after = (task_of(env).errors(path[at], task.goal_state) for at in (0, -1))
        cells = [f"{before[name]:.1f} > {after[name]:.1f}" for name in names]
        film = Film(
            frames,
            render(env, task.goal_state),
            label=", ".join(_said(name, after[name]) for name in names),
            first_success=first,
            **seen(number),
        )
        pictures, image = animate(film), f"{place:02d}.gif"
        atomic_write_bytes(folder / image, as_gif(pictures))
        atomic_write_bytes((folder / image).with_suffix(".mp4"), as_mp4(pictures))
        rows.append(
            f"| ![episode {number}]({image}) | {number} | {task.env_seed} | {said} "
            f"| {' | '.join(cells)} |"
        )
    atomic_write_text(folder / "README.md", "\n".join(rows) + "\n")


def _said(name: str, value: float) -> str:
    """An error in few words, as "block 3.2 mm" for "block, mm"."""
    what, _, unit = name.partition(", ")
    return f"{what} {value:.1f}{'°' if unit == 'degrees' else f' {unit}'}"
