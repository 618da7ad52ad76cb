"""Checking written programs against the model."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from worldmodel.deploy.programs import Function, Program, Values
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import CheckpointInfo

BATCHES = (1, 7, 64)  # batch sizes that are checked
# Largest difference as a fraction of the largest number. Rounding gives a millionth of it, except
# where an image shows nothing of the object: its heading is then a short vector, normalised.
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}


class SampleEpisode(NamedTuple):
    """Inputs to check with.

    Attributes:
        pixels: images at each model step, ``[M, H, W, 3]``.
        proprio: proprioception at the same steps, ``[M, Dp]``.
        actions: actions from the first step on, ``[N, F*A]`` with N >= M.
    """

    pixels: Tensor
    proprio: Tensor
    actions: Tensor


def random_episode(info: CheckpointInfo, frames: int, steps: int) -> SampleEpisode:
    """Random images, proprioception and actions."""
    rng, side, spec = np.random.default_rng(0), info.image_size, info.spec
    pixels = rng.integers(0, 256, (frames, side, side, 3), np.uint8)
    proprio = rng.normal(spec.proprio_mean, spec.proprio_std, (frames, len(spec.proprio_mean)))
    low, high = (
        np.tile(each, info.model.frameskip) for each in (spec.action_low, spec.action_high)
    )
    actions = rng.uniform(low, high, (steps, len(low)))
    return SampleEpisode(*map(torch.from_numpy, (pixels, np.float32(proprio), np.float32(actions))))


def real_episode(
    env: gym.Env[Any, Any], info: CheckpointInfo, frames: int, steps: int
) -> SampleEpisode:
    """Observations of the environment under random actions."""
    actions = random_episode(info, 1, steps).actions
    observations = [env.reset(seed=0)[0]]
    for model_step in actions[: frames - 1].unflatten(-1, (info.model.frameskip, -1)).numpy():
        for action in model_step:
            obs = env.step(action)[0]
        observations.append(obs)
    pixels, proprio = (
        np.stack([obs[key] for obs in observations]) for key in ("pixels", "proprio")
    )
    return SampleEpisode(torch.from_numpy(pixels), torch.from_numpy(proprio).float(), actions)


def inputs_of(episode: SampleEpisode, z: Tensor, context: int, horizon: int) -> dict[str, Values]:
    """Inputs of each program at every step of an episode with enough steps before and after it;
    ``z [M, P, D]`` are the latents of the episode. The goal is its last frame."""
    first = torch.arange(len(z) - context + 1)[:, None]
    frames, between = first + torch.arange(context), first + torch.arange(context - 1)
    candidates = episode.actions[first + context - 1 + torch.arange(horizon)]
    past = episode.actions[between]
    return {
        "encoder": (episode.pixels,),
        "predictor": (z[frames], episode.proprio[frames], past, candidates),
        "distance": (z, z[-1:]),
    }


@torch.no_grad()
def difference(written: Function, eager: Function, inputs: Values) -> tuple[float, float]:
    """The largest difference of two functions over batches of all sizes: absolute, and as a
    fraction of the largest number. NaN where an output is NaN or shapes differ."""
    absolute, relative = [], []
    for size in BATCHES:
        part = [each[:size] for each in inputs]
        results = (written(*part), eager(*part))
        pairs = ((each,) if isinstance(each, Tensor) else each for each in results)
        for found, expected in zip(*pairs, strict=True):
            if found.shape != expected.shape:
                return float("nan"), float("nan")
            absolute.append((found - expected).abs().max())
            relative.append(absolute[-1] / expected.abs().max().clamp_min(1e-9))
    return float(torch.stack(absolute).max()), float(torch.stack(relative).max())


def check(
    parts: list[Program],
    written: list[dict[str, Function]],
    episodes: dict[str, SampleEpisode],
    tolerance: float,
    device: str | torch.device = "cpu",
) -> list[dict[str, Any]]:
    """Run every file and the model on all episodes.

    Returns:
        The differences of each file on each kind of episode.

    Raises:
        UserError: a difference exceeds `tolerance`.
    """
    encoder, predictor, _ = parts
    context, horizon = (int(predictor.inputs[at].shape[1]) for at in (0, -1))
    rows: dict[str, dict[str, Any]] = {}
    for kind, episode in episodes.items():
        placed = SampleEpisode(*(part.to(device) for part in episode))
        with torch.no_grad():
            z = encoder.eager(placed.pixels)
        assert isinstance(z, Tensor)
        inputs = inputs_of(placed, z, context, horizon)
        for part, files in zip(parts, written, strict=True):
            for file, function in files.items():
                absolute, relative = difference(function, part.eager, inputs[part.name])
                if not relative <= tolerance:
                    raise UserError(
                        f"{file} differs from the model by {relative:.2g} of the largest number "
                        f"on {kind} (tolerance {tolerance:g}): nothing was written; try another "
                        "version of torch"
                    )
                row = rows.setdefault(file, {"file": file})
                row[kind] = {"absolute": absolute, "relative": relative}
    return list(rows.values())
