"""Whether the imagined future follows a position that is edited in the latents.

    python -m worldmodel.studies causal --data data/pusht --checkpoint pusht

A probe may read what the predictor does not use. So, as with Othello-GPT (Li et al. 2023, Nanda et
al. 2023), the latents of all context frames are edited such that a linear probe reads the object's
position as a few centimetres farther along an axis, or back. The model imagines on under the same
actions, and linear probes, fitted to imagined latents at each depth, read the position again. The
result is the shift against the unedited future. Edits:

    probe     the shortest edit, in standardised latents, that changes this output of a linear probe
              and none of its others
    means     the mean latents of frames with the object near its new position, minus those of
              frames with the object near its old one: for latents that are not linear in positions
    random    the control of either: a random direction of the same length
    proprio   where the robot measures the position itself: the measurement is shifted as well, or
              alone

The study reports the fraction of cases that move in the intended direction, with a Wilson 95 %
interval, and the median shift as a fraction of the intended one. A moved block may really be pushed
back, and a moved ball may run into a wall. So the simulator runs from the state with the moved
object, too. Where its future moves by a third of the intended shift or more, the imagined future
should move in the same direction: this fraction is reported as well, beside that of a predictor
that copies the edit ("copied"). Objects are moved only to positions that occur in the data. Cases
of one episode are similar, so the intervals are somewhat too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.task import task_of
from worldmodel.cli.device import pick_device
from worldmodel.data.dataset import Dataset, open_dataset
from worldmodel.errors import UserError
from worldmodel.measure.environments import make_env
from worldmodel.measure.probe_targets import position_columns, targets_of
from worldmodel.measure.probing import three_parts
from worldmodel.measure.readout import linear_reading, r2
from worldmodel.measure.statistics import rate_interval
from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.models.latents import LatentClips, draw_latent_clips, imagine
from worldmodel.models.world_model import WorldModel
from worldmodel.studies.causal_report import draw, table
from worldmodel.studies.latent_edits import PositionEditor
from worldmodel.studies.study import Study

LARGEST = 4096  # numbers in the latents of a frame; a linear probe is solved for so many
DECISIVE = 1 / 3  # of the intended shift: the simulator's future moves at least so far
READABLE = 0.5  # lowest R^2 of a position that is edited

Shifts = dict[str, Tensor]  # edit -> shift as a fraction of the intended one [m, T]


@dataclass(frozen=True)
class CausalConfig:
    """What to edit.

    Attributes:
        data: dataset folder whose episodes recorded the simulator's state.
        checkpoint: bundled name, folder or hf:USER/NAME.
        targets: targets of the probe, separated by commas; empty means all but velocities. The last
            position among them, x and y, is edited.
        shift: distance of an edit, metres.
        clips: number of clips to fit the probes to.
        cases: number of clips of held-out episodes to edit, each in four directions.
        held_out: fraction of the episodes to test on.
        seed: seed of the samples and of the random edits.
        device: auto, cpu, cuda or mps.
        out: JSON file for the result; the plot is a PNG beside it.
    """

    data: str
    checkpoint: str = "pusht"
    targets: str = ""
    shift: float = 0.03
    clips: int = 3000
    cases: int = 400
    held_out: float = 0.25
    seed: int = 0
    device: str = "auto"
    out: Path = Path("out/causal.json")

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise UserError(f"shift is {self.shift}: it must be above 0")
        if self.clips < 100 or self.cases < 1:
            raise UserError(
                f"clips is {self.clips} and cases is {self.cases}: use at least 100 and 1"
            )


@dataclass(frozen=True, eq=False)
class FittedProbes:
    """Linear probes of latents at each depth, and the held-out clips to edit.

    Attributes:
        names: targets.
        position: columns of the position that is edited.
        weights: probe of each depth, ``[C + 1, K]``.
        editor: edits, from the training frames.
        clips: held-out clips.
        y: targets at the last context frame of these clips, ``[n, K]``.
        readable: R^2 of x and y by depth.
        counts: clips for training, validation and test.
        held_out_episodes: number of held-out episodes.
    """

    names: list[str]
    position: tuple[int, int]
    weights: list[Tensor]
    editor: PositionEditor
    clips: LatentClips
    y: Tensor
    readable: dict[str, list[float]]
    counts: list[int]
    held_out_episodes: int


def causal(config: CausalConfig) -> dict[str, Any]:
    """Run the study.

    Raises:
        UserError: no target is a position, the probes do not read it, or the data shows no frames
            with the object at the new positions.
    """
    dataset = open_dataset(config.data)
    names, values = targets_of(dataset, config.targets)
    position = position_columns(names)
    if position is None:
        raise UserError(f"no target is a position, x and y: targets are {', '.join(names)}")
    model, encoder, info = load_checkpoint(config.checkpoint, pick_device(config.device))
    size = info.model.tokens * info.model.dim
    if size > LARGEST:
        raise UserError(
            f"{config.checkpoint} has {size} numbers in the latents of a frame: this study takes "
            f"up to {LARGEST}"
        )
    rng = np.random.default_rng(config.seed)
    episodes = three_parts(dataset, config.held_out, rng)
    counts = (config.clips, max(100, config.clips // 8), config.cases)
    parts = [
        draw_latent_clips(model, encoder, dataset, some, count, info.horizon, rng)
        for some, count in zip(episodes, counts, strict=True)
    ]
    probes = fit_probes(config.checkpoint, model, names, position, parts, values, len(episodes[2]))
    by_direction = edit_all(config, model, dataset, probes)
    kinds = next(iter(by_direction.values()))
    joined = {kind: torch.cat([by[kind] for by in by_direction.values()]) for kind in kinds}
    return {
        "data": config.data,
        "data_hash": dataset.hash,
        "checkpoint": config.checkpoint,
        "shift": config.shift,
        "clips": probes.counts,
        "held_out_episodes": probes.held_out_episodes,
        "seed": config.seed,
        "r2": probes.readable,
        "results": [
            {"moved": direction, "edit": kind, **edit_summary(shifts, by["simulator"])}
            for direction, by in {"all": joined, **by_direction}.items()
            for kind, shifts in by.items()
        ],
    }


def fit_probes(
    checkpoint: str,
    model: WorldModel,
    names: list[str],
    position: tuple[int, int],
    parts: list[LatentClips],
    values: np.ndarray,
    held_out_episodes: int,
) -> FittedProbes:
    """Linear probes of each depth, from clips for training, validation and test.

    Raises:
        UserError: they do not read the position.
    """
    y = [torch.from_numpy(values[part.frames]).float() for part in parts]  # [n, 1 + T, K]
    z = [imagine(model, part) for part in parts]  # [n, 1 + T, C]
    weights = [
        linear_reading(z[0][:, depth], y[0][:, depth], z[1][:, depth], y[1][:, depth])
        for depth in range(z[0].shape[1])
    ]
    scores = torch.stack(
        [r2(z[2][:, d] @ w[:-1] + w[-1], y[2][:, d])[list(position)] for d, w in enumerate(weights)]
    )
    readable = {names[c]: column for c, column in zip(position, scores.T.tolist(), strict=True)}
    if scores[0].min() < READABLE:
        found = ", ".join(f"{name} with R^2 {column[0]:.2f}" for name, column in readable.items())
        raise UserError(
            f"linear probes read {found} from the latents of {checkpoint}: name other --targets, "
            "or use more --clips"
        )
    editor = PositionEditor(z[0][:, 0], y[0][:, 0], weights[0], position)
    counts = [len(part.z) for part in parts]
    return FittedProbes(
        names, position, weights, editor, parts[2], y[2][:, 0], readable, counts, held_out_episodes
    )


def edit_all(
    config: CausalConfig, model: WorldModel, dataset: Dataset, probes: FittedProbes
) -> dict[str, Shifts]:
    """Shifts of the future under every edit, for each direction.

    Raises:
        UserError: the data shows no frames with the object at any of the new positions.
    """
    env = make_env(dataset.env_id, dataset.env_kwargs, dataset.pixels_shape[0])
    g = torch.Generator().manual_seed(config.seed)
    found: dict[str, Shifts] = {}
    try:
        for column, sign in ((c, s) for c in probes.position for s in (1, -1)):
            name, shift = probes.names[column], sign * config.shift
            after = probes.y.clone()
            after[:, column] += shift
            distance = probes.editor.nearest(after, 1)[0][:, 0]
            cases = (distance < config.shift / 4).nonzero()[:, 0]
            if not len(cases):
                continue
            clips = probes.clips.select(cases)
            truth = simulated_shift(task_of(env), dataset, clips.frames, name, shift)
            shifts = {"simulator": truth}
            shifts |= imagined_shifts(model, dataset, probes, clips, cases, column, shift, g)
            shifts["copied"] = torch.full_like(truth, shift)
            found[f"{name} {shift:+g}"] = {edit: each / shift for edit, each in shifts.items()}
    finally:
        env.close()
    if not found:
        raise UserError(
            f"no frame of {config.data} shows the object {config.shift} m beside its position in "
            f"any of {config.cases} cases: use a smaller --shift, or more --clips"
        )
    return found


def imagined_shifts(
    model: WorldModel,
    dataset: Dataset,
    probes: FittedProbes,
    clips: LatentClips,
    cases: Tensor,
    column: int,
    shift: float,
    g: torch.Generator,
) -> Shifts:
    """Shifts ``[m, T]``, metres, that probes read from the imagined future, for each edit of target
    `column` by `shift` in the clips, which are those with the numbers `cases`."""
    editor, name = probes.editor, probes.names[column]
    slopes = torch.stack([weights[:-1, column] for weights in probes.weights[1:]])
    before = probes.y[cases]
    after = before.clone()
    after[:, column] += shift
    found: Shifts = {}
    for kind, make in (("probe", editor.by_probe), ("means", editor.by_means)):
        edit = make(before, after)
        control = editor.random(edit, g)
        found[kind] = imagined_shift(model, clips, edit, slopes)
        found[f"random, as {kind}"] = imagined_shift(model, clips, control, slopes)
        if name in dataset.proprio_names:
            measured = torch.zeros(clips.proprio.shape[-1])
            measured[dataset.proprio_names.index(name)] = shift
            found[f"{kind} and proprio"] = imagined_shift(model, clips, edit, slopes, measured)
            found["proprio alone"] = imagined_shift(model, clips, 0 * edit, slopes, measured)
    return found


def imagined_shift(
    model: WorldModel,
    clips: LatentClips,
    edit: Tensor,
    slopes: Tensor,
    measured: Tensor | None = None,
) -> Tensor:
    """The shift ``[m, T]`` that probes read from the imagined future.

    Args:
        model: the world model.
        clips: m clips.
        edit: added to the latents of all context frames, ``[m, C]``.
        slopes: weights of the probe of each depth, ``[T, C]``.
        measured: added to proprioception, ``[Dp]``.
    """
    z = clips.z + edit.unflatten(1, clips.z.shape[2:]).unsqueeze(1)
    proprio = clips.proprio if measured is None else clips.proprio + measured
    edited = clips._replace(z=z, proprio=proprio)
    change = (imagine(model, edited) - imagine(model, clips))[:, 1:]  # [m, T, C]
    return (change * slopes).sum(-1)


def simulated_shift(
    task: Any, dataset: Dataset, frames: np.ndarray, name: str, shift: float
) -> Tensor:
    """The shift ``[m, T]`` of a state name in the simulator's future under the recorded actions, if
    the state of the first of the frames ``[m, 1 + T]`` is shifted."""
    assert dataset.state is not None
    column = dataset.state_names.index(name)
    found = []
    for path in frames:
        actions, at = dataset.actions[path[0] : path[-1]], path[1:] - path[0]
        start = dataset.state[path[0]]
        moved = start.copy()
        moved[column] += shift
        ends = [task.physics(state, actions)[at, column] for state in (moved, start)]
        found.append(ends[0] - ends[1])
    return torch.from_numpy(np.stack(found)).float()


def edit_summary(shifts: Tensor, truth: Tensor) -> dict[str, Any]:
    """Statistics of shifts ``[m, T]``, by imagination and by the simulator, as fractions of the
    intended shift. Lists have one entry for each depth."""
    agrees, counts = [], []
    for column, true in zip(shifts.T, truth.T, strict=True):
        decisive = true.abs() >= DECISIVE
        counts.append(int(decisive.sum()))
        same = column[decisive].sign() == true[decisive].sign()
        agrees.append(rate_interval(same.numpy()) if len(same) else None)
    return {
        "n": len(shifts),
        "intended": [rate_interval(column.numpy() > 0) for column in shifts.T],
        "median_shift": shifts.median(0).values.tolist(),
        "agrees": agrees,
        "agrees_n": counts,
    }


STUDY = Study(CausalConfig, causal, table, draw)
