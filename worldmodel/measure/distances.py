"""Whether a distance means time: its rank correlation with the steps between frames."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch

from worldmodel.data.dataset import Dataset
from worldmodel.encoders.encoder import Encoder
from worldmodel.errors import UserError
from worldmodel.measure.environments import dataset_task
from worldmodel.measure.statistics import spearman
from worldmodel.models.latents import BATCH, encode_frames, latents_of_tokens
from worldmodel.models.world_model import WorldModel

PAIRS = 4000


@torch.no_grad()
def distance_correlations(
    model: WorldModel, encoder: Encoder, dataset: Dataset, episodes: np.ndarray, seed: int
) -> dict[str, Any]:
    """Spearman's correlation of distances between two frames of the same episode.

    Args:
        model, encoder: whose distances.
        dataset: has recorded states.
        episodes: to draw pairs of frames from, a whole number of model steps apart.
        seed: of the pairs.

    Returns:
        ``{"pairs": n, "latents": {"elapsed": r, "task": r}, "tokens": {...}}``: the model's latent
        distance and the mean squared difference of the encoder's tokens, with the model steps
        between the frames and with the task's distance, where it has one.

    Raises:
        UserError: every episode is shorter than a model step.
    """
    rng = np.random.default_rng(seed)
    skip = model.config.frameskip
    long = episodes[dataset.lengths[episodes] >= skip]
    if not len(long):
        raise UserError(f"no held-out episode of {dataset.path} has {skip} actions: record more")
    chosen = rng.choice(long, PAIRS)
    steps = 1 + (rng.random(PAIRS) * (dataset.lengths[chosen] // skip)).astype(np.int64)
    start = (rng.random(PAIRS) * (dataset.lengths[chosen] - skip * steps + 1)).astype(np.int64)
    first = dataset.offsets[chosen] + start
    frames, index = np.unique(np.stack([first, first + skip * steps]), return_inverse=True)
    tokens = encode_frames(encoder, dataset, frames)
    z = latents_of_tokens(model, tokens).to(model.action_low.device)
    one, other = torch.from_numpy(index.reshape(2, PAIRS))
    plain = [
        (tokens[i].float() - tokens[j].float()).square().mean((-2, -1))
        for i, j in zip(one.split(BATCH), other.split(BATCH), strict=True)
    ]
    distances = {"latents": model.distance(z[one], z[other]).cpu(), "tokens": torch.cat(plain)}
    truths = {"elapsed": steps}
    task = dataset_task(dataset)
    assert dataset.state is not None
    pairs = zip(*dataset.state[frames[index.reshape(2, PAIRS)]], strict=True)
    with contextlib.suppress(ValueError):  # this task has no distance
        truths["task"] = np.array([task.distance(state, goal) for state, goal in pairs])
    found: dict[str, Any] = {"pairs": PAIRS, "episodes": len(long)}
    for name, distance in distances.items():
        found[name] = {key: round(spearman(distance, truth), 4) for key, truth in truths.items()}
    return found
