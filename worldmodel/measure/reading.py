"""What can be read off a model's latents: of images, and of what it imagines.

Planning brings to the goal only what latents hold. So a trained model is tested at once: a linear
probe of proprioception, and of the simulator's state where it was recorded, is fitted to latents of
images and tested on held-out episodes, also on imagined latents.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from envs.task import INVISIBLE
from worldmodel.cli.device import pick_device
from worldmodel.data.dataset import Dataset, open_dataset
from worldmodel.errors import UserError
from worldmodel.measure.probe_targets import targets_of
from worldmodel.measure.probing import three_parts
from worldmodel.measure.readout import linear_reading, r2
from worldmodel.models.checkpoint import load_checkpoint, write_finding
from worldmodel.models.latents import draw_latent_clips, imagine
from worldmodel.models.summary import reading_table

CLIPS = (1500, 300, 500)  # for training, validation and test


def store_reading(checkpoint: Path, data: str, device: str = "auto", seed: int = 0) -> str:
    """Measure what can be read off a checkpoint's latents, and store it with the checkpoint.

    Args:
        checkpoint: its folder.
        data: dataset folder.
        device: auto, cpu, cuda or mps.
        seed: seed of the clips.

    Returns:
        A table of R^2 by depth, in lines.

    Raises:
        UserError: an unusable checkpoint or dataset; episodes that are too few or too short, or in
            which nothing changes that an image shows.
    """
    dataset = open_dataset(data)
    names, values = visible_numbers(dataset)
    if not names or dataset.episodes < 3:
        raise UserError(
            f"{data} has {dataset.episodes} episodes and {len(names)} numbers of proprio and state "
            "that an image shows: it takes 3 episodes and 1 number"
        )
    model, encoder, info = load_checkpoint(checkpoint, pick_device(device))
    rng = np.random.default_rng(seed)
    parts = [
        draw_latent_clips(model, encoder, dataset, episodes, count, info.horizon, rng)
        for episodes, count in zip(three_parts(dataset, 0.1, rng), CLIPS, strict=True)
    ]
    y = [torch.from_numpy(values[part.frames]).float() for part in parts]  # [n, 1 + T, K]
    seen = [part.z[:, -1].flatten(1) for part in parts[:2]]
    weights = linear_reading(seen[0], y[0][:, 0], seen[1], y[1][:, 0])
    found = imagine(model, parts[2]) @ weights[:-1] + weights[-1]
    scores = [r2(found[:, depth], y[2][:, depth]) for depth in range(found.shape[1])]
    by_name = {
        name: [round(float(score[column]), 3) for score in scores]
        for column, name in enumerate(names)
    }
    clips = dict(zip(("train", "val", "test"), map(len, parts), strict=True))
    write_finding(checkpoint, "reading", {"data": data, "clips": clips, "r2": by_name})
    return "\n".join(reading_table(by_name))


def visible_numbers(dataset: Dataset) -> tuple[list[str], NDArray[np.float64]]:
    """Names and values ``[N, K]`` of what changes and an image can show: no velocities. The state
    leaves out what proprioception has under the same name."""
    proprio = dataset.proprio
    names = list(dataset.proprio_names) or [f"proprio {i}" for i in range(proprio.shape[1])]
    columns = [proprio]
    if dataset.state is not None:
        more, values = targets_of(dataset)
        new = [i for i, name in enumerate(more) if name not in names]
        names += [more[i] for i in new]
        columns.append(values[:, new])
    table = np.concatenate(columns, 1).astype(np.float64)
    spread = table.std(0)
    keep = [i for i, n in enumerate(names) if spread[i] > 1e-9 and not INVISIBLE.search(n)]
    return [names[i] for i in keep], table[:, keep]
