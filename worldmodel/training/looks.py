"""Recorded frames in other looks, from which latents learn to ignore looks."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldmodel.data.dataset import Dataset
from worldmodel.encoders.augmentation import Augment, AugmentConfig, dead_leaves

Array = NDArray[Any]

SHIFT = 0.03  # largest shift of the camera, as a share of the image
TEXTURES = 256
BATCH = 32  # images changed together: more would not fit in a CPU's cache


class LookedFrames:
    """The frames of some episodes, each with other colours, background and light, and shifted by a
    few pixels. `LatentCache` takes them as it takes a dataset.

    Attributes:
        rows: their frames in the dataset, ascending.
        hash: hex digest of the pixels.
    """

    def __init__(
        self,
        dataset: Dataset,
        count: int,
        episodes: Array,
        seed: int,
        device: torch.device,
    ) -> None:
        """Frames of random `episodes`, `count` or a few more if there are as many; changed on
        `device`."""
        rng = np.random.default_rng(seed)
        order = rng.permutation(episodes)
        sizes = dataset.lengths[order] + 1
        enough = int(np.searchsorted(np.cumsum(sizes), count)) + 1
        self.dataset, self.seed, self.device = dataset, seed, device
        self.episodes = np.sort(order[:enough])
        frames = [np.arange(dataset.offsets[e], dataset.offsets[e + 1]) for e in self.episodes]
        self.rows = np.concatenate(frames)
        # The 3 stands for this way of making looks: caches of an earlier way are not used.
        digest = hashlib.sha256(f"looks 3 {dataset.hash} {seed} {device.type} ".encode())
        digest.update(self.episodes.astype(np.int64).tobytes())
        self.hash = digest.hexdigest()
        self._augment: Augment | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, part: slice | Array) -> Array:
        """Frames ``part`` of them, at least one, uint8 ``[m, H, W, 3]``; the same for the same
        part."""
        chosen = np.arange(len(self))[part]
        frames = torch.from_numpy(self.dataset.pixels(self.rows[chosen]))
        if self._augment is None:
            side = frames.shape[1]
            textures = torch.from_numpy(dead_leaves(TEXTURES, side, self.seed)).to(self.device)
            mean, std = torch.zeros(3, device=self.device), torch.ones(3, device=self.device)
            self._augment = Augment(AugmentConfig(global_size=side), textures, mean, std)
        generator = torch.Generator(self.device)
        generator.manual_seed((self.seed << 32) + int(chosen[0]))
        looked = []
        for batch in frames.split(BATCH):
            images = batch.to(self.device).permute(0, 3, 1, 2).float().div_(255)
            images = _shift(self._augment.relook(images, generator), generator)
            images = images.clamp_(0, 1).mul_(255).round_().byte().permute(0, 2, 3, 1)
            looked.append(images.cpu().numpy())
        return np.concatenate(looked)


def _shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images ``[B, 3, H, W]``, each shifted in a random direction. What comes into view repeats the
    border, or has a random colour, as the rim of a table would."""
    count, device = len(images), images.device
    theta = torch.eye(2, 3, device=device).repeat(count, 1, 1)
    shift = 2 * torch.rand(count, 2, generator=generator, device=device) - 1
    theta[:, :, 2] = 2 * SHIFT * shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    shifted = F.grid_sample(images, grid, "bilinear", "border", align_corners=False)
    colour = torch.rand(count, 3, 1, 1, generator=generator, device=device)
    coloured = torch.rand(count, 1, 1, 1, generator=generator, device=device) < 0.5
    outside = (grid.abs().amax(-1) > 1).unsqueeze(1)
    return torch.where(outside & coloured, colour, shifted)
