"""Augmentation for pretraining: random crops with random palette, background and light.

Simulated frames are nearly empty and have few colours. On the unchanged frames, patch features
encode little more than the patch's position. So frames are recoloured, backgrounds are replaced by
textures, and procedural images are mixed in. Everything is batched, and much cheaper than a
training step of a small ViT on two CPU cores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class AugmentConfig:
    """How strongly views are randomised.

    Attributes:
        global_size: side of a global crop, pixels.
        local_size: side of a local crop, pixels.
        local_crops: local crops per image.
        global_scale: smallest and largest area of a global crop, as a share of the image.
        local_scale: the same for local crops.
        rotation: largest rotation of a crop, degrees.
        recolour: share of images with random palette and light.
        background: share of images with a procedural texture as background.
        noise: largest standard deviation of the pixel noise, in [0, 1] units.
    """

    global_size: int = 112
    local_size: int = 56
    local_crops: int = 2
    global_scale: tuple[float, float] = (0.6, 1.0)
    local_scale: tuple[float, float] = (0.15, 0.5)
    rotation: float = 8.0
    recolour: float = 0.7
    background: float = 0.35
    noise: float = 0.04


def dead_leaves(count: int, size: int, seed: int) -> np.ndarray:
    """Procedural images: overlapping textured polygons and discs with power-law sizes.

    Args:
        count: number of images.
        size: side, pixels.
        seed: same seed, same images.

    Returns:
        uint8 [count, size, size, 3].
    """
    rng = np.random.default_rng(seed)
    images = np.empty((count, size, size, 3), np.uint8)
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32)
    for i in range(count):
        palette = rng.integers(0, 256, (rng.integers(3, 12), 3))
        shapes = int(rng.integers(6, 45))
        image = Image.new("RGB", (size, size), tuple(int(c) for c in palette[0]))
        draw = ImageDraw.Draw(image)
        # Inverse transform of a power law: many small shapes, few large ones.
        radii = 3.0 / np.sqrt(1.0 - rng.random(shapes) * (1.0 - (3.0 / (0.45 * size)) ** 2))
        for radius in -np.sort(-radii):
            x, y = rng.random(2) * size
            colour = tuple(int(c) for c in palette[rng.integers(len(palette))])
            if rng.random() < 0.3:
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
            else:
                angles = np.sort(rng.random(rng.integers(3, 8))) * 2 * math.pi
                reach = radius * (0.4 + 0.9 * rng.random(len(angles)))
                corners = np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], -1)
                draw.polygon([(float(a), float(b)) for a, b in corners], fill=colour)
        pixels = np.asarray(image, np.float32)
        if rng.random() < 0.7:
            fx, fy = rng.normal(0.0, 0.35, 2)
            wave = np.sin(fx * xs + fy * ys + rng.random() * 6.28)
            pixels = pixels + rng.uniform(5, 40) * wave[..., None] * rng.random(3)
        images[i] = np.clip(pixels, 0, 255)
    return images


class Augment:
    """Normalised crops of a batch of frames; the same for the same state of the generator."""

    def __init__(self, config: AugmentConfig, textures: Tensor, mean: Tensor, std: Tensor) -> None:
        """`textures`: backgrounds, uint8 [M, H, W, 3]; `mean`, `std`: [3], in [0, 1] units."""
        self.config = config
        self.textures = textures
        self.mean = mean.view(1, 3, 1, 1)
        self.std = std.view(1, 3, 1, 1)
        # A fixed bank of noise images: much cheaper than new random numbers for each pixel.
        side = config.global_size
        fixed = torch.Generator().manual_seed(0)
        self.noise = torch.randn(64, 1, side, side, generator=fixed)

    def __call__(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """A global crop [B, 3, S, S] and local crops [B, 3, s, s] of frames, uint8 [B, H, W, 3]."""
        c = self.config
        g = generator
        images = frames.permute(0, 3, 1, 2).float().div_(255.0)
        images, content = self._background(images, g)
        images = self._recolour(images, g)
        flip = _symmetry(len(images), g)
        large = _crop(images, c.global_size, c.global_scale, c.rotation, flip, None, g)
        global_crop = self._jitter(large, g)
        local_crops = [
            self._jitter(
                _crop(images, c.local_size, c.local_scale, c.rotation, flip, content, g), g
            )
            for _ in range(c.local_crops)
        ]
        return global_crop, local_crops

    def relook(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Whole images ``[B, 3, H, W]`` in [0, 1] with another palette, background and light;
        normalised like crops."""
        images, _ = self._background(images, generator)
        return self._jitter(self._recolour(images, generator), generator)

    def _background(self, images: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Replace the most common colour by a texture in some images.

        Returns:
            The images, and a salient point of each [B, 2], (x, y) in [-1, 1].
        """
        b = len(images)
        coarse = images[:, :, 3::7, 3::7]
        median = coarse.flatten(2).median(dim=2).values[:, :, None, None]
        distance = (images - median).abs_().amax(dim=1, keepdim=True)
        salience = F.adaptive_avg_pool2d(distance, 8).flatten(1) + 1e-3
        cell = torch.multinomial(salience.square(), 1, generator=g).squeeze(1)
        content = torch.stack([cell % 8, cell // 8], dim=1).float() / 4 - 0.875
        chosen = (torch.rand(b, generator=g) < self.config.background).nonzero().squeeze(1)
        if len(chosen):
            pick = torch.randint(len(self.textures), (len(chosen),), generator=g)
            texture = self.textures[pick].permute(0, 3, 1, 2).float().div_(255.0)
            if texture.shape[-2:] != images.shape[-2:]:
                texture = F.interpolate(texture, images.shape[-2:], mode="bilinear")
            # Mixed with the old background, so that its contrast with the objects varies.
            blend = torch.rand(len(chosen), 1, 1, 1, generator=g) * 0.8 + 0.2
            weight = (1.0 - 8.0 * distance[chosen]).clamp_(0.0, 1.0) * blend
            images[chosen] = torch.lerp(images[chosen], texture, weight)
        return images, content

    def _recolour(self, images: Tensor, g: torch.Generator) -> Tensor:
        """Random palette (channel mixing, then a monotone curve) and low-frequency light."""
        b = len(images)
        on = (torch.rand(b, 1, 1, generator=g) < self.config.recolour).float()
        mix = torch.eye(3) + on * torch.randn(b, 3, 3, generator=g) * 0.45
        # Rows sum to a random gain: this keeps greys nearly grey, and changes contrast and hue.
        gain = 1.0 + on * (torch.rand(b, 3, 1, generator=g) - 0.6) * 0.8
        mix = mix - (mix.sum(2, keepdim=True) - gain) / 3
        offset = on * (torch.rand(b, 3, 1, generator=g) - 0.5) * 0.5
        flat = images.flatten(2)
        out = torch.baddbmm(offset + 0.5 - 0.5 * gain, mix, flat).clamp_(0.0, 1.0)
        # x + k x (1 - x) is monotone on [0, 1] for |k| <= 1, and needs no powers.
        curve = on * (torch.rand(b, 3, 1, generator=g) * 2 - 1)
        out = torch.addcmul(out, curve * out, 1.0 - out).view_as(images)
        light = 1.0 + on[..., None] * (torch.rand(b, 1, 4, 4, generator=g) - 0.6) * 0.6
        return out.mul_(F.interpolate(light, images.shape[-2:], mode="bilinear")).clamp_(0.0, 1.0)

    def _jitter(self, crops: Tensor, g: torch.Generator) -> Tensor:
        """Slight colour change, noise and normalisation of a view, in one matrix product."""
        b, _, h, w = crops.shape
        grey = (torch.rand(b, 1, 1, generator=g) < 0.1).float()
        gain = 1.0 + (torch.rand(b, 3, 1, generator=g) - 0.5) * 0.3
        offset = (torch.rand(b, 3, 1, generator=g) - 0.5) * 0.1
        luma = torch.tensor(_LUMA).expand(3, 3)
        mix = torch.lerp(torch.eye(3).expand(b, 3, 3), luma.expand(b, 3, 3), grey) * gain
        mean, std = self.mean.view(1, 3, 1), self.std.view(1, 3, 1)
        out = torch.baddbmm((offset - mean) / std, mix / std, crops.flatten(2)).view_as(crops)
        pick = torch.randint(len(self.noise), (b,), generator=g)
        x, y = torch.randint(self.noise.shape[-1] - w + 1, (2,), generator=g).tolist()
        scale = torch.rand(b, 1, 1, 1, generator=g) * self.config.noise / float(self.std.mean())
        return out.addcmul_(self.noise[:, :, y : y + h, x : x + w][pick], scale)


def _symmetry(count: int, g: torch.Generator) -> Tensor:
    """Random mirrorings and transpositions [B, 2, 2] of images, shared by all their views."""
    signs = torch.randint(0, 2, (count, 2), generator=g).float() * 2 - 1
    swap = torch.rand(count, 1, 1, generator=g) < 0.5
    diagonal = torch.diag_embed(signs)
    return torch.where(swap, diagonal.flip(1), diagonal)


def _crop(
    images: Tensor,
    size: int,
    scale: tuple[float, float],
    rotation: float,
    symmetry: Tensor,
    content: Tensor | None,
    g: torch.Generator,
) -> Tensor:
    """Random rotated, resized crops [B, 3, size, size] of images [B, 3, H, W].

    With `content` (points in [-1, 1]), seven of ten crops are centred near it, the others anywhere.
    """
    b = len(images)
    area = scale[0] + (scale[1] - scale[0]) * torch.rand(b, 1, generator=g)
    aspect = ((torch.rand(b, 1, generator=g) - 0.5) * 0.4).exp()
    half = torch.cat([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1).clamp_max_(1.0)
    centre = torch.rand(b, 2, generator=g) * 2 - 1
    if content is not None:
        near = content + (torch.rand(b, 2, generator=g) - 0.5) * half
        centre = torch.where(torch.rand(b, 1, generator=g) < 0.7, near, centre * (1 - half))
        centre = torch.minimum(torch.maximum(centre, half - 1), 1 - half)
    else:
        centre = centre * (1 - half)
    angle = (torch.rand(b, generator=g) * 2 - 1) * math.radians(rotation)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    theta = torch.cat([turn * half[:, None] @ symmetry, centre[:, :, None]], dim=2)
    grid = F.affine_grid(theta, [b, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)
