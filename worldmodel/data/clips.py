"""Random clips of recorded episodes, for training and for measuring.

Clips hold indices of frames, so that pixels, tokens or latents are looked up where they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldmodel.data.dataset import Dataset, split
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]


class EpisodeIndex(NamedTuple):
    """Episodes of one or several datasets.

    Attributes:
        source: number of the dataset, int64 ``[E]``.
        first: index of the first frame in this dataset, int64 ``[E]``.
        length: actions, int64 ``[E]``.
    """

    source: Array
    first: Array
    length: Array

    def __len__(self) -> int:
        return len(self.source)


class Clips(NamedTuple):
    """Clips of J frames, `frameskip` environment steps apart.

    Attributes:
        source: number of the dataset, int64 ``[B]``.
        frames: indices of the frames in this dataset, int64 ``[B, J]``.
        proprio: proprioception at these frames, float32 ``[B, J, Dp]``.
        actions: actions between them, float32 ``[B, J-1, F*A]``.
    """

    source: Array
    frames: Array
    proprio: Tensor
    actions: Tensor


def choose(
    datasets: Sequence[Dataset], episodes: Iterable[ArrayLike], shortest: int
) -> EpisodeIndex:
    """The chosen episodes of each dataset that have at least `shortest` actions."""
    parts = []
    for source, (dataset, chosen) in enumerate(zip(datasets, episodes, strict=True)):
        ids = np.asarray(chosen, np.int64)
        ids = ids[dataset.lengths[ids] >= shortest]
        parts.append((np.full(len(ids), source), dataset.offsets[ids], dataset.lengths[ids]))
    return EpisodeIndex(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class ClipSampler:
    """Draws clips of frames that are `frameskip` environment steps apart."""

    def __init__(self, datasets: Sequence[Dataset], frameskip: int) -> None:
        self.datasets, self.frameskip = list(datasets), frameskip

    def split(self, held_out: float) -> tuple[EpisodeIndex, EpisodeIndex]:
        """Episodes to train on, and held-out episodes.

        Raises:
            UserError: there are none of a kind that are long enough.
        """
        sides = zip(*(split(dataset, held_out) for dataset in self.datasets), strict=True)
        train, held = (choose(self.datasets, side, self.frameskip) for side in sides)
        if not len(train) or not len(held):
            raise UserError(
                f"{len(train)} episodes to train on and {len(held)} held out have at least "
                f"{self.frameskip} steps: collect more"
            )
        return train, held

    def draw(
        self,
        episodes: EpisodeIndex,
        count: int,
        frames: int,
        rng: np.random.Generator,
        before: int | None = None,
    ) -> Clips:
        """`count` random clips of `frames` frames, with replacement. A clip may begin before its
        episode, by up to `before` frames (default: all but two), or end after a shorter one. There
        the first or the last frame is repeated, under the hold action, as at the start of an
        episode that is planned."""
        chosen = rng.choice(len(episodes), count)
        earliest = -self.frameskip * (frames - 2 if before is None else before)
        last = episodes.length[chosen] - self.frameskip * (frames - 1)
        start = rng.integers(earliest, np.maximum(earliest + 1, last + 1))
        return self._clips(EpisodeIndex(*(column[chosen] for column in episodes)), start, frames)

    def draw_distinct(
        self, episodes: EpisodeIndex, count: int, frames: int, rng: np.random.Generator
    ) -> Clips:
        """Up to `count` different clips, in the order of their frames, that lie within episodes.

        Raises:
            UserError: every episode is too short.
        """
        needed = self.frameskip * (frames - 1)
        starts = np.maximum(0, episodes.length - needed + 1)  # possible ones of each episode
        if not starts.sum():
            names = ", ".join(str(dataset.path) for dataset in self.datasets)
            raise UserError(f"no episode of {names} has {needed} actions: record longer ones")
        number = rng.choice(starts.sum(), min(count, starts.sum()), replace=False)
        ends = np.cumsum(starts)
        chosen = np.searchsorted(ends, number, "right")
        start = number - (ends - starts)[chosen]
        order = np.lexsort((episodes.first[chosen] + start, episodes.source[chosen]))
        chosen, start = chosen[order], start[order]
        return self._clips(EpisodeIndex(*(column[chosen] for column in episodes)), start, frames)

    def _clips(self, episodes: EpisodeIndex, start: Array, frames: int) -> Clips:
        """One clip of each of these episodes ``[B]``, from environment step `start` ``[B]``."""
        import torch

        source, first, length = (column[:, None] for column in episodes)
        at = np.clip(start[:, None] + self.frameskip * np.arange(frames), 0, length)
        steps = start[:, None] + np.arange(self.frameskip * (frames - 1))
        inside = (steps >= 0) & (steps < length)
        index, acted = first + at, first + np.clip(steps, 0, length - 1)
        widths = self.datasets[0].proprio.shape[1], self.datasets[0].actions.shape[1]
        proprio = np.empty((*index.shape, widths[0]), np.float32)
        actions = np.empty((*acted.shape, widths[1]), np.float32)
        for number in np.unique(source):
            dataset, rows = self.datasets[number], source[:, 0] == number
            proprio[rows] = dataset.proprio[index[rows]]
            taken = dataset.actions[acted[rows]]
            if dataset.hold != "repeat":
                taken = np.where(inside[rows][..., None], taken, hold_vector(dataset))
            actions[rows] = taken
        return Clips(
            source[:, 0],
            index,
            torch.from_numpy(proprio),
            torch.from_numpy(actions.reshape(len(index), frames - 1, -1)),
        )


def hold_vector(dataset: Dataset) -> Array:
    """The declared hold action, or zeros within the bounds, float32 ``[A]``."""
    if isinstance(dataset.hold, list):
        return np.array(dataset.hold, np.float32)
    return np.clip(np.zeros_like(dataset.action_low), dataset.action_low, dataset.action_high)


def spaced_frames(episodes: EpisodeIndex, about: int) -> tuple[Array, Array, Array]:
    """Evenly spaced frames of episodes, approximately `about` in all.

    Returns:
        Dataset of each frame ``[M]``; its index there ``[M]``; and whether the next one is of the
        same episode, bool ``[M-1]``.
    """
    stride = math.ceil((episodes.length + 1).sum() / about)
    counts = episodes.length // stride + 1
    episode = np.repeat(np.arange(len(episodes)), counts)
    step = stride * (np.arange(len(episode)) - np.repeat(np.cumsum(counts) - counts, counts))
    return episodes.source[episode], episodes.first[episode] + step, episode[1:] == episode[:-1]
