"""What probes learn to predict: numbers of the simulator's state that an image shows.

State is simulator truth. It measures the model here; no planner receives it.
"""

from __future__ import annotations

import math
import re

import numpy as np
import torch
from torch import Tensor

from worldmodel.control.guardrails import chips_left
from worldmodel.data.dataset import Dataset
from worldmodel.errors import UserError

_ANGLE = re.compile(r"(angle|theta|yaw)$")
_CHIP = re.compile(r"chip\d+_[xy]$")
_SEED = re.compile(r"(^|_)seed$")
_HIDDEN = re.compile(r"(^|[ _.])(v[xyz]?|omega|velocity|.*_?seed)$")  # not in a single frame


def listed(names: str) -> list[str]:
    """The names in a comma-separated list."""
    return [name.strip() for name in names.split(",") if name.strip()]


def targets_of(dataset: Dataset, wanted: str = "") -> tuple[list[str], np.ndarray]:
    """Names and values ``[N, K]`` of the targets for each frame of a dataset.

    Raises:
        UserError: the dataset recorded no state, or a name is not one of its state.
    """
    if dataset.state is None:
        raise UserError(f"{dataset.path} recorded no simulator state, so nothing can be probed.")
    known = dataset.state_names or tuple(str(i) for i in range(dataset.state.shape[1]))
    names = listed(wanted)
    if wanted == "all":
        names = [n for n in known if not (_SEED.search(n) or _CHIP.match(n))]
    for name in names:
        if name not in known:
            raise UserError(f"target {name!r} is not in the state: {', '.join(known)}.")
    names = names or [n for n in known if not (_HIDDEN.search(n) or _CHIP.match(n))]
    labels, columns = [], []
    # Which chip is which cannot be seen, but how many there are.
    if "chip0_x" in known and wanted in ("", "all"):
        labels.append("chips")
        columns.append(chips_left(known, torch.from_numpy(dataset.state)).numpy())
    for name in names:
        values = dataset.state[:, known.index(name)]
        if _ANGLE.search(name):
            labels += [f"sin {name}", f"cos {name}"]
            columns += [np.sin(values), np.cos(values)]
        else:
            labels.append(name)
            columns.append(values)
    moving = [i for i, column in enumerate(columns) if column.std() > 1e-9]
    return [labels[i] for i in moving], np.stack([columns[i] for i in moving], 1)


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
        if name.endswith("x") and not _HIDDEN.search(name) and name[:-1] + "y" in names
    ]
    return pairs[-1] if pairs else None
