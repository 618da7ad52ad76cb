"""Images of planar poses, composed of sprites."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.models.image_decoder import ImageDecoder
from worldmodel.models.planar_pose.geometry import inverse, rotate


class SpriteDecoder(ImageDecoder):
    """A planar pose ``[B, 1, 6]`` as an image: the ground, the object at its position and heading,
    and the robot on top. The three pictures are learnt, the latter two with their opacity."""

    REACH = 0.7  # half the width of a sprite, in half images
    learning_rate = 0.03

    grid: Tensor

    def __init__(self, side: int, scale: float):
        """`side`: of the image, pixels. `scale`: latents per half image."""
        super().__init__()
        self.scale = scale
        self.ground = nn.Parameter(torch.full((3, side, side), 0.5))
        cells = math.ceil(self.REACH * side)  # the image's own resolution
        self.object = nn.Parameter(torch.full((4, cells, cells), 0.5))
        self.robot = nn.Parameter(torch.full((4, cells, cells), 0.5))
        centres = (torch.arange(side) + 0.5) * 2 / side - 1
        grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)
        self.register_buffer("grid", grid, persistent=False)  # x, y of pixels, in half images

    def forward(self, z: Tensor) -> Tensor:
        position, heading, robot = z[:, 0].float().split(2, -1)
        heading = F.normalize(heading, dim=-1, eps=1e-3)
        upright = torch.tensor([1.0, 0.0]).to(heading).expand_as(heading)
        image = self.ground.expand(len(z), -1, -1, -1)
        for sprite, at, facing in (
            (self.object, position, heading),
            (self.robot, robot, upright),
        ):
            image = self._draw(image, sprite, at / self.scale, facing)
        return image

    def loss(self, image: Tensor, truth: Tensor) -> Tensor:
        """Mean absolute error, which gives sharp edges, and a penalty on opacity."""
        sprites = torch.stack([self.object, self.robot], 1)
        return (image - truth).abs().mean() + 1e-3 * self.opacity(sprites).mean()

    @staticmethod
    def opacity(sprite: Tensor) -> Tensor:
        """Opacity ``[1, h, w]`` of a sprite ``[4, h, w]``; close to 0 before training."""
        return (8 * sprite[3:] - 6).sigmoid()

    def _draw(self, image: Tensor, sprite: Tensor, at: Tensor, heading: Tensor) -> Tensor:
        local = rotate(self.grid - at[:, None, None], inverse(heading)[:, None, None]) / self.REACH
        # Colours are weighted by opacity before interpolation, so that hidden colours do not bleed.
        opacity = self.opacity(sprite)
        weighted = torch.cat([sprite[:3] * opacity, opacity])
        drawn = F.grid_sample(weighted.expand(len(at), -1, -1, -1), local, align_corners=False)
        return image * (1 - drawn[:, 3:]) + drawn[:, :3]
