"""Latents of recorded frames, and the futures that a model imagines from them.

Decoders, probes and familiarity all learn from these.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldmodel.cli import Progress, progress
from worldmodel.data.cache import FrameSource
from worldmodel.data.clips import ClipSampler, choose
from worldmodel.data.dataset import Dataset
from worldmodel.encoders.encoder import Encoder
from worldmodel.models.world_model import WorldModel

BATCH = 512  # frames or clips in one forward pass


def frames_of(dataset: Dataset, episodes: np.ndarray) -> np.ndarray:
    """Indices of all frames of these episodes, int64 ``[n]``."""
    spans = [dataset.frames(int(e)) for e in episodes]
    return np.concatenate([np.arange(s.start, s.stop) for s in spans])


def encode_frames(encoder: Encoder, dataset: FrameSource, frames: np.ndarray) -> Tensor:
    """Patch tokens of the given frames, float16 ``[n, N, C]`` on the CPU."""
    out = torch.empty(len(frames), encoder.num_tokens, encoder.dim, dtype=torch.float16)
    bar: Progress[None]
    with progress(total=len(frames), description=encoder.name, unit="frame") as bar:
        for i in range(0, len(frames), BATCH):
            tokens = encoder.encode(dataset.pixels(frames[i : i + BATCH]))
            out[i : i + BATCH] = tokens.cpu()
            bar.update(len(tokens))
    return out


@torch.no_grad()
def latents_of(
    model: WorldModel, encoder: Encoder, dataset: FrameSource, frames: np.ndarray
) -> Tensor:
    """Latents of the given frames, float32 ``[n, P, D]`` on the CPU."""
    return latents_of_tokens(model, encode_frames(encoder, dataset, frames))


@torch.no_grad()
def latents_of_tokens(model: WorldModel, tokens: Tensor) -> Tensor:
    """Latents ``[n, P, D]``, float32 on the CPU, of patch tokens ``[n, N, C]``."""
    device = model.action_low.device
    parts = [model.encode(part.to(device).float()).cpu() for part in tokens.split(BATCH)]
    return torch.cat(parts)


class LatentClips(NamedTuple):
    """Arguments of `WorldModel.rollout` from recorded episodes, with the recorded actions.

    Attributes:
        z: latents of the context frames, ``[n, K, P, D]``.
        proprio: proprioception at these frames, ``[n, K, Dp]``.
        past: actions between them, ``[n, K-1, F*A]``.
        actions: actions from the last context frame on, ``[n, T, F*A]``.
        frames: indices in the dataset of the last context frame and of the T frames after it,
            int64 ``[n, 1 + T]``.
    """

    z: Tensor
    proprio: Tensor
    past: Tensor
    actions: Tensor
    frames: np.ndarray

    def select(self, index: Tensor) -> LatentClips:
        """The clips with these numbers, int64 ``[m]``."""
        z, proprio, past, actions, frames = self
        return LatentClips(
            z[index], proprio[index], past[index], actions[index], frames[index.numpy()]
        )


def draw_latent_clips(
    model: WorldModel,
    encoder: Encoder,
    dataset: Dataset,
    episodes: np.ndarray,
    count: int,
    horizon: int,
    rng: np.random.Generator,
) -> LatentClips:
    """Up to `count` different clips of these episodes, `horizon` model steps long.

    Raises:
        UserError: the episodes are too short.
    """
    context = model.config.context
    sampler = ClipSampler([dataset], model.config.frameskip)
    chosen = choose([dataset], [episodes], 1)
    clips = sampler.draw_distinct(chosen, count, context + horizon, rng)
    context_frames = clips.frames[:, :context]
    encoded, index = np.unique(context_frames, return_inverse=True)
    z = latents_of(model, encoder, dataset, encoded)
    return LatentClips(
        z[torch.from_numpy(index.reshape(context_frames.shape))],
        clips.proprio[:, :context],
        clips.actions[:, : context - 1],
        clips.actions[:, context - 1 :],
        clips.frames[:, context - 1 :],
    )


@torch.no_grad()
def imagine(model: WorldModel, clips: LatentClips) -> Tensor:
    """Latents of the last context frame and of the T imagined frames after it,
    ``[n, 1 + T, P * D]`` on the CPU."""
    device = model.action_low.device
    arguments = (clips.z, clips.proprio, clips.past, clips.actions.unsqueeze(1))
    batches = zip(*(part.split(BATCH) for part in arguments), strict=True)
    future = [model.rollout(*(part.to(device) for part in b)).z[:, 0].cpu() for b in batches]
    return torch.cat([clips.z[:, -1:], torch.cat(future)], 1).flatten(2)
