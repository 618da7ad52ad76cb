"""Logged frames and actions, for parts of a model that are fitted before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.data.clips import EpisodeIndex, spaced_frames
from worldmodel.data.dataset import Dataset

if TYPE_CHECKING:
    from worldmodel.encoders.encoder import Encoder

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class FrameSample:
    """Evenly spaced frames of the episodes of `logs`.

    Attributes:
        logs: what they are taken from.
        sources: number of the dataset of each frame ``[M]``.
        frames: index of each frame in its dataset ``[M]``.
        consecutive: whether the next one is of the same episode, bool ``[M - 1]``.
    """

    logs: Logs
    sources: Array
    frames: Array
    consecutive: Array

    def __len__(self) -> int:
        return len(self.frames)

    def pixels(self, part: slice = slice(None)) -> Array:
        """Images, uint8 ``[m, H, W, 3]``, of a part of the frames."""
        return self._gather(lambda i, at: self.logs.datasets[i].pixels(at), part)

    def tokens(self) -> Array:
        """The encoder's tokens ``[M, N, C]``."""
        return self._gather(lambda i, at: self.logs.tokens[i][at])

    def proprio(self) -> Array:
        """Normalised proprioception ``[M, Dp]``."""
        return self._gather(lambda i, at: self.logs.proprio[i][at])

    def _gather(self, read: Callable[[int, Array], Array], part: slice = slice(None)) -> Array:
        sources, frames = self.sources[part], self.frames[part]  # in the order of the datasets
        return np.concatenate([read(i, frames[sources == i]) for i in np.unique(sources)])


@dataclass(frozen=True, eq=False)
class Logs:
    """What representations and predictors are fitted to.

    Attributes:
        datasets: recorded episodes.
        tokens: of each dataset, the encoder's tokens ``[frames, N, C]``.
        episodes: episodes of these datasets to fit to.
        proprio: of each dataset, normalised proprioception ``[frames, Dp]``.
        encoder: the frozen encoder.
        normalise_actions: actions ``[..., A]`` in the env's units to -1 .. 1.
        seed: of everything random.
        steps: optimiser steps, where fitting takes any.
        device: to compute on.
    """

    datasets: list[Dataset]
    tokens: list[Array]
    episodes: EpisodeIndex
    proprio: list[Array]
    encoder: Encoder
    normalise_actions: Callable[[Tensor], Tensor]
    seed: int
    steps: int
    device: torch.device

    def random_frames(self, count: int) -> tuple[Tensor, Tensor]:
        """Tokens ``[M, N, C]`` and pixels ``[M, H, W, 3]``: one random frame of each of at most
        `count` episodes."""
        rng = np.random.default_rng(self.seed)
        tokens, pixels = [], []
        total = len(self.episodes)
        for number in rng.choice(total, min(count, total), replace=False):
            source, first, length = (column[number] for column in self.episodes)
            at = first + int(rng.integers(length + 1))
            tokens.append(self.tokens[source][at])
            pixels.append(self.datasets[source].pixels([at])[0])
        return (
            torch.from_numpy(np.stack(tokens)).to(self.device).float(),
            torch.from_numpy(np.stack(pixels)).to(self.device),
        )

    def random_pairs(self, count: int) -> tuple[Tensor, Tensor]:
        """Tokens ``[count, N, C]`` twice: of two random frames of the same episode."""
        rng = np.random.default_rng(self.seed)
        tokens = []
        for number in rng.choice(len(self.episodes), count):
            source, first, length = (column[number] for column in self.episodes)
            at = first + rng.integers(length + 1, size=2)
            tokens.append(self.tokens[source][at])
        pairs = torch.from_numpy(np.stack(tokens)).to(self.device).float()
        return pairs[:, 0], pairs[:, 1]

    def spaced_frames(self, about: int) -> FrameSample:
        """Evenly spaced frames, approximately `about`."""
        return FrameSample(self, *spaced_frames(self.episodes, about))

    def actions_of(self, source: int) -> tuple[Array, Tensor]:
        """The frames of a dataset that an action follows ``[M]``, and these actions, normalised,
        ``[M, A]``."""
        data = self.datasets[source]
        at = np.flatnonzero(data.has_action)
        actions = torch.from_numpy(data.actions[at]).to(self.device)
        return at, self.normalise_actions(actions).cpu()
