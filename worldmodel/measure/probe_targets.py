"""What probes learn to predict: quantities that an image shows, computed from simulator states.

State is simulator truth. It measures the model here; no planner receives it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from envs.task import INVISIBLE
from worldmodel.data.dataset import Dataset
from worldmodel.errors import UserError
from worldmodel.measure.environments import dataset_task


def listed(names: str) -> list[str]:
    """The names in a comma-separated list."""
    return [name.strip() for name in names.split(",") if name.strip()]


def targets_of(dataset: Dataset, wanted: str = "") -> tuple[list[str], np.ndarray]:
    """Names and values ``[N, K]`` of the targets for each frame of a dataset.

    Args:
        dataset: has recorded states.
        wanted: names of the task's readings or of the state's numbers, separated by commas; an
            angle stands for its sine and cosine. Empty means all readings, "all" all numbers of the
            state as well.

    Raises:
        UserError: the dataset recorded no state, or a name is unknown.
    """
    if dataset.state is None:
        raise UserError(f"{dataset.path} recorded no simulator state, so nothing can be probed.")
    task = dataset_task(dataset)
    readings = task.readings(dataset.state)
    angles = {name.partition(" ")[2] for name in readings if name.startswith("sin ")}
    numbers = {
        name: dataset.state[:, i] for i, name in enumerate(task.state_names) if name not in angles
    }
    known = {**numbers, **readings}
    names = listed(wanted)
    if not names or wanted == "all":
        names = [*readings, *(n for n in numbers if wanted == "all" and n not in readings)]
    names = [part for n in names for part in ((f"sin {n}", f"cos {n}") if n in angles else (n,))]
    for name in names:
        if name not in known:
            raise UserError(f"target {name!r} is unknown; there are {', '.join([*known, *angles])}")
    moving = [name for name in names if known[name].std() > 1e-9]
    return moving, np.stack([known[name] for name in moving], 1)


def mean_errors(names: list[str], found: Tensor, truth: Tensor) -> dict[str, float]:
    """Mean absolute errors of predictions ``[n, K]``, by target. The sine and cosine of an angle
    become one error in radians."""
    errors = {}
    for column, name in enumerate(names):
        circle, _, angle = name.partition(" ")
        if circle == "sin" and f"cos {angle}" in names:
            other = names.index(f"cos {angle}")
            angles = [torch.atan2(y[:, column], y[:, other]) for y in (found, truth)]
            error = torch.remainder(angles[0] - angles[1] + math.pi, 2 * math.pi) - math.pi
            errors[angle] = float(error.abs().mean())
        elif not (circle == "cos" and f"sin {angle}" in names):
            errors[name] = float((found[:, column] - truth[:, column]).abs().mean())
    return errors


def position_columns(names: list[str]) -> tuple[int, int] | None:
    """Columns of x and y of the last position among the names: usually the object's, where the
    robot comes first. None where no name is a position."""
    pairs = [
        (i, names.index(name[:-1] + "y"))
        for i, name in enumerate(names)
        if name.endswith("x") and not INVISIBLE.search(name) and name[:-1] + "y" in names
    ]
    return pairs[-1] if pairs else None
