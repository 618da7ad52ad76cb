"""Random clips of logged episodes, for training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.data.dataset import Dataset, split
from worldmodel.errors import UserError

Array = NDArray[Any]


class Clips(dict[str, Tensor]):
    """A batch: frames ``[B, J, ...]``, proprio ``[B, J, Dp]``, actions ``[B, J-1, F*A]``."""


class Episodes:
    """Logged episodes; gives random clips of frames `frameskip` apart.

    `frames` holds, for each dataset, what is known of its frames: the encoder's tokens
    ``[frames, N, C]`` or latents ``[frames, P, D]``. `train` and `held_out` list the episodes of
    each kind: (dataset, first frame, number of actions).
    """

    def __init__(
        self, datasets: list[Dataset], frames: list[Array], frameskip: int, held_out: float
    ):
        self.frameskip, self.frames = frameskip, frames
        self.train: list[tuple[int, int, int]] = []
        self.held_out: list[tuple[int, int, int]] = []
        for i, dataset in enumerate(datasets):
            for chosen, ids in zip(
                (self.train, self.held_out), split(dataset, held_out), strict=True
            ):
                usable = ids[dataset.lengths[ids] >= frameskip]
                firsts, lengths = dataset.offsets[usable], dataset.lengths[usable]
                chosen += [(i, int(f), int(n)) for f, n in zip(firsts, lengths, strict=True)]
        if not self.train or not self.held_out:
            raise UserError(
                f"{len(self.train)} episodes to train on and {len(self.held_out)} held out have "
                f"at least {frameskip} steps: collect more"
            )
        self.proprio = [np.asarray(d.proprio, np.float32) for d in datasets]
        # The last frame of an episode has no action (NaN in the dataset); none is ever read there.
        self.actions = [np.nan_to_num(d.actions) for d in datasets]

    def sample(self, about: int) -> tuple[Array, Array, Array]:
        """Evenly spaced frames to train on, `about` so many in all: their datasets ``[M]``, where
        in these they are ``[M]``, and whether the next one is of the same episode, bool
        ``[M - 1]``."""
        stride = math.ceil(sum(length + 1 for _, _, length in self.train) / about)
        parts = [
            (i, source, np.arange(first, first + length + 1, stride))
            for i, (source, first, length) in enumerate(self.train)
        ]
        episode = np.concatenate([np.full(len(frames), i) for i, _, frames in parts])
        sources = np.concatenate([np.full(len(frames), source) for _, source, frames in parts])
        frames = np.concatenate([frames for _, _, frames in parts])
        return sources, frames, episode[1:] == episode[:-1]

    def clips(
        self,
        episodes: list[tuple[int, int, int]],
        count: int,
        frames: int,
        rng: np.random.Generator,
    ) -> Clips:
        """Random clips of `frames` frames. A clip may begin before its episode does: there the
        first frame repeats and nothing is done, which is also how a planner starts."""
        skip = self.frameskip
        seen, proprio, actions = [], [], []
        for number in rng.choice(len(episodes), count):
            source, first, length = episodes[number]
            earliest = -skip * (frames - 2)
            latest = max(earliest + 1, length - skip * (frames - 1) + 1)
            start = int(rng.integers(earliest, latest))
            at = np.clip(start + skip * np.arange(frames), 0, length)
            steps = start + np.arange(skip * (frames - 1))
            valid = (steps >= 0) & (steps < length)
            taken = self.actions[source][first + np.clip(steps, 0, length - 1)]
            seen.append(self.frames[source][first + at])
            proprio.append(self.proprio[source][first + at])
            actions.append(np.where(valid[:, None], taken, 0.0).reshape(frames - 1, -1))
        return Clips(
            frames=torch.from_numpy(np.stack(seen)),
            proprio=torch.from_numpy(np.stack(proprio)),
            actions=torch.from_numpy(np.stack(actions).astype(np.float32)),
        )
