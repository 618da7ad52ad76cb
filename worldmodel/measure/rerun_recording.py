"""An episode as a recording for the viewer Rerun, ``.rrd``.

All entities are on the timeline ``step``, environment steps::

    observation       camera image
    goal              goal image
    imagined/1, ...   frames that the latest plan predicts, one model step apart
    actions/NAME      executed action
    distance          latent distance to the goal
    cost              of each plan
    search            lowest cost of each iteration of a plan's search
    clearance         of each plan: predicted distance from a violation; below 0 is a violation
    events            interventions of guardrails, surprises, the goal
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldmodel.errors import UserError
from worldmodel.measure.episode import EpisodeLog
from worldmodel.measure.film import Film


def check_rerun(path: Path) -> None:
    """Raise UserError where Rerun is missing, or `path` is a folder."""
    if path.is_dir():
        raise UserError(f"--rerun is {path}, a folder: name a file, such as {path / 'plan.rrd'}")
    if importlib.util.find_spec("rerun") is None:
        raise UserError("--rerun needs rerun-sdk: pip install 'worldmodel[rerun]'")


def write_rerun(path: Path, film: Film, log: EpisodeLog, action_names: Sequence[str]) -> None:
    """Write an episode to `path`, completely or not at all.

    Args:
        path: an earlier file is replaced.
        film: of the episode.
        log: of the episode; its plans were made by a `RecordingPlanner`.
        action_names: of the channels of an action; empty: they are numbered.
    """
    import rerun

    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as place:
        file = Path(place) / "episode.rrd"
        recording = rerun.RecordingStream("worldmodel")
        recording.save(file)
        _log_steps(rerun, recording, film, log, action_names)
        _log_plans(rerun, recording, film, log)
        recording.disconnect()  # which waits for the file
        os.replace(file, path)


def _log_steps(
    rerun: Any, recording: Any, film: Film, log: EpisodeLog, action_names: Sequence[str]
) -> None:
    """Log what the camera saw, what was done and what happened."""
    recording.log("goal", rerun.Image(film.goal), static=True)
    for step, frame in enumerate(film.frames):
        recording.set_time("step", sequence=step)
        recording.log("observation", rerun.Image(frame))
    for step, action in enumerate(log.actions):
        recording.set_time("step", sequence=step)
        names = action_names or range(len(action))
        for name, value in zip(names, action.tolist(), strict=True):
            recording.log(f"actions/{name}", rerun.Scalars(value))
    for step, distance in film.distances:
        recording.set_time("step", sequence=step)
        recording.log("distance", rerun.Scalars(distance))
    events = [(step, "a guardrail changed the action") for step in film.interventions]
    events += [(step, "surprise") for step in film.surprises]
    if film.first_success is not None:
        events.append((film.first_success, "goal reached"))
    for step, text in events:
        recording.set_time("step", sequence=step)
        recording.log("events", rerun.TextLog(text))


def _log_plans(rerun: Any, recording: Any, film: Film, log: EpisodeLog) -> None:
    """Log what plans cost, how their search went, what they imagine, and their clearances."""
    for step, cost, batches in zip(log.plan_steps, log.costs, log.candidates, strict=False):
        recording.set_time("step", sequence=step)
        recording.log("cost", rerun.Scalars(cost))
        recording.log("search", rerun.BarChart([float(batch.cost[0]) for batch in batches]))
    for plan in film.imagined:
        recording.set_time("step", sequence=plan.step)
        for depth, frame in enumerate(plan.frames, 1):
            recording.log(f"imagined/{depth}", rerun.Image(frame))
    for step, clearance in film.clearances:
        recording.set_time("step", sequence=step)
        recording.log("clearance", rerun.Scalars(clearance))
