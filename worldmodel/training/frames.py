"""The recorded frames that a world model is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.data.cache import FrameSource, LatentCache
from worldmodel.data.clips import ClipSampler, EpisodeIndex, choose
from worldmodel.data.dataset import Dataset, open_dataset, split
from worldmodel.data.recording import parse_hold
from worldmodel.encoders.encoder import Encoder
from worldmodel.errors import UserError
from worldmodel.models.config import DataSpec
from worldmodel.training.config import TrainConfig
from worldmodel.training.frameskip import measure_frameskip
from worldmodel.training.looks import LookedFrames

Array = NDArray[Any]


class Batch(NamedTuple):
    """Clips of J frames on the training device.

    Attributes:
        frames: reduced tokens ``[B, J, N, R]`` or latents ``[B, J, P, D]``, float16.
        proprio: ``[B, J, Dp]``.
        actions: ``[B, J-1, F*A]``.
        ids: a number for each frame, int64 ``[B, J]``; equal numbers are the same frame.
        shown: `frames`, some of them in another look.
    """

    frames: Tensor
    proprio: Tensor
    actions: Tensor
    ids: Tensor
    shown: Tensor


class TrainingFrames:
    """Draws clips of frames: first with reduced tokens, later with fixed latents. They are
    kept in the device's memory if they take at most half of it, else in main memory.

    Attributes:
        datasets: all datasets.
        tokens: of each dataset, the encoder's tokens ``[frames, N, C]``, on the disk.
        sampler: draws clips; reduced tokens are drawn from the leading datasets only.
        train: episodes to train on.
        held_out: episodes for validation.
        features: reduced tokens or latents of all frames that are drawn, ``[frames, ...]``; after
            reduced tokens follow those of frames in other looks.
        first: row of each dataset's first frame in `features`.
        other_look: row of each frame in another look, int64 ``[frames]``, or its own.
        looked: episodes of which every frame has one, or None.
        reduced: whether frames are reduced tokens.
        fixed: whether frames are latents.
    """

    def __init__(
        self,
        datasets: list[Dataset],
        tokens: list[Array],
        leading: int,
        frameskip: int,
        held_out: float,
        device: torch.device,
        looks: Sequence[tuple[LookedFrames, Array]] = (),
    ) -> None:
        """
        Args:
            leading: number of datasets that the representation is learnt from.
            looks: frames of these in other looks, and their tokens.
        """
        self.datasets, self.tokens = datasets, tokens
        self.frameskip, self.share, self.device = frameskip, held_out, device
        self.leading, self.looks = leading, looks
        self.reduced = self.fixed = False
        self.features = torch.empty(0)
        self.other_look = torch.empty(0)
        self.looked: EpisodeIndex | None = None
        self._sample_from(datasets[:leading])

    def _sample_from(self, datasets: list[Dataset]) -> None:
        self.sampler = ClipSampler(datasets, self.frameskip)
        self.train, self.held_out = self.sampler.split(self.share)
        self.first = np.cumsum([0, *(dataset.offsets[-1] for dataset in datasets)])

    def use_reduced(self, reduce: Callable[[Array], Tensor]) -> None:
        """From now on, frames of the leading datasets are drawn as ``reduce(tokens)``."""
        leading = slice(self.leading)
        self._sample_from(self.datasets[leading])
        sources = [*self.tokens[leading], *(tokens for _, tokens in self.looks)]
        self.features = self._store([reduce(tokens) for tokens in sources])
        self.other_look = torch.arange(self.first[-1])
        follows = int(self.first[-1])
        for (frames, _), first in zip(self.looks, self.first, strict=False):
            rows = torch.from_numpy(frames.rows + first)
            self.other_look[rows] = follows + torch.arange(len(rows))
            follows += len(rows)
        if self.looks:
            chosen = [frames.episodes for frames, _ in self.looks]
            self.looked = choose(self.sampler.datasets, chosen, self.frameskip)
        self.reduced = True

    def use_latents(self, encode: Callable[[Array], Tensor]) -> None:
        """From now on, frames of all datasets are drawn as their latents, ``encode(tokens)``."""
        self._sample_from(self.datasets)
        self.features = self._store([encode(tokens) for tokens in self.tokens])
        self.reduced, self.fixed = False, True

    def _store(self, features: list[Tensor]) -> Tensor:
        """Features of all datasets in one tensor, on the device if they take at most half of it."""
        self.features = torch.empty(0)  # free the memory of earlier ones
        stored = torch.cat(features)
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            if stored.nbytes > free // 2:
                return stored
        return stored.to(self.device)

    def draw(
        self,
        count: int,
        length: int,
        rng: np.random.Generator,
        held_out: bool = False,
        before: int | None = None,
        mixed: float = 0.0,
    ) -> Batch:
        """`count` random clips of `length` frames; `before` as in `ClipSampler.draw`. A share
        `mixed` of them shows half of its frames in another look, if there are any."""
        several = round(mixed * count) if self.looked is not None and len(self.looked) else 0
        plain = count - several
        episodes = self.held_out if held_out else self.train
        clips = [self.sampler.draw(episodes, plain, length, rng, before)]
        if several:
            assert self.looked is not None
            clips.append(self.sampler.draw(self.looked, several, length, rng, before))
        rows = [part.frames + self.first[part.source][:, None] for part in clips]
        ids = torch.from_numpy(np.concatenate(rows))
        frames = shown = self._features(ids)
        if several:
            other = torch.from_numpy(rng.random(ids.shape) < 0.5)
            other[:plain] = False
            shown = self._features(torch.where(other, self.other_look[ids], ids))
        proprio = torch.cat([part.proprio for part in clips])
        actions = torch.cat([part.actions for part in clips])
        frames, proprio, actions, ids = (
            part.to(self.device) for part in (frames, proprio, actions, ids)
        )
        return Batch(frames, proprio, actions, ids, shown.to(self.device) if several else frames)

    def _features(self, rows: Tensor) -> Tensor:
        return self.features[rows.to(self.features.device)]

    def spec(self, encoder: Encoder) -> DataSpec:
        """Sizes and statistics of the world model's inputs."""
        first = self.datasets[0]
        proprio = np.concatenate([dataset.proprio for dataset in self.datasets])
        return DataSpec(
            num_tokens=encoder.num_tokens,
            token_dim=encoder.dim,
            action_low=tuple(float(x) for x in first.action_low),
            action_high=tuple(float(x) for x in first.action_high),
            proprio_mean=tuple(float(x) for x in proprio.mean(0)),
            proprio_std=tuple(float(x) for x in np.maximum(proprio.std(0), 1e-6)),
        )

    def hold(self) -> tuple[float, ...] | str | None:
        """The hold action that the datasets declare.

        Raises:
            UserError: they declare different ones.
        """
        declared = [dataset.hold for dataset in self.datasets if dataset.hold is not None]
        if any(hold != declared[0] for hold in declared):
            raise UserError(f"the datasets declare different hold actions: {declared}")
        hold = declared[0] if declared else None
        return tuple(hold) if isinstance(hold, list) else hold


def _with_hold(dataset: Dataset, hold: str) -> Dataset:
    if dataset.hold is not None:
        return dataset
    return replace(
        dataset, hold=parse_hold(hold, dataset.action_low, dataset.action_high, dataset.choices)
    )


def open_frames(
    config: TrainConfig, encoder: Encoder, device: torch.device, looks: int = 0
) -> TrainingFrames:
    """The datasets of a run, encoded, and `looks` of their frames in other looks.

    Raises:
        UserError: an unusable dataset, or datasets of different environments.
    """
    leading = [open_dataset(path) for path in config.data.split(",") if path]
    if not leading:
        raise UserError("data is empty: name at least one dataset folder")
    datasets = leading + [open_dataset(path) for path in config.dynamics_data.split(",") if path]
    if config.hold:
        datasets = [_with_hold(dataset, config.hold) for dataset in datasets]
    if len({dataset.env_id for dataset in datasets}) > 1:
        ids = sorted({dataset.env_id for dataset in datasets})
        raise UserError(f"the datasets are of different environments: {', '.join(ids)}")

    def encode(frames: FrameSource) -> Array:
        return LatentCache.open_or_build(frames, encoder, config.cache).tokens

    tokens = [encode(dataset) for dataset in datasets]
    share = min(1.0, looks / sum(len(dataset) for dataset in leading))
    looked = [
        LookedFrames(
            dataset,
            int(share * len(dataset)),
            split(dataset, config.held_out)[0],
            seed=number,
            device=encoder.mean.device,
        )
        for number, dataset in enumerate(leading if looks else [])
    ]
    frameskip = config.model.frameskip or measure_frameskip(datasets, tokens)
    return TrainingFrames(
        datasets,
        tokens,
        len(leading),
        frameskip,
        config.held_out,
        device,
        [(frames, encode(frames)) for frames in looked],
    )
