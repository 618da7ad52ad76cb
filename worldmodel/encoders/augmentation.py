"""Augmentation for pretraining: random crops with random palette, background and light.

Simulated frames are nearly empty and have few colours. On the unchanged frames, patch features
encode little more than the patch's position. So frames are recoloured, backgrounds are replaced by
textures, and procedural images are mixed in. Everything is batched, and much cheaper than a
training step of a small ViT on two CPU cores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)
REPAINTED = 0.5  # share of the whole images whose ground, and whose object, gets another colour


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


class Views(NamedTuple):
    """Normalised views of a batch of images.

    Attributes:
        student, teacher: the same crop ``[B, 3, S, S]`` of each image in two looks.
        local_crops: smaller crops ``[B, 3, s, s]``.
    """

    student: Tensor
    teacher: Tensor
    local_crops: list[Tensor]


class Augment:
    """Views of a batch of images, on the device of the generator. They are the same for the same
    state of the generator."""

    def __init__(self, config: AugmentConfig, textures: Tensor, mean: Tensor, std: Tensor) -> None:
        """`textures`: backgrounds, uint8 [M, H, W, 3]; `mean`, `std`: [3], in [0, 1] units. All on
        the device that images are on."""
        self.config = config
        self.textures = textures
        self.mean = mean.view(1, 3, 1, 1)
        self.std = std.view(1, 3, 1, 1)
        # A fixed bank of noise images: much cheaper than new random numbers for each pixel.
        side = config.global_size
        fixed = torch.Generator().manual_seed(0)
        self.noise = torch.randn(64, 1, side, side, generator=fixed).to(mean.device)

    def __call__(self, frames: Tensor, generator: torch.Generator) -> Views:
        """Views of frames, uint8 [B, H, W, 3].

        Only their look tells the crops of student and teacher apart. So tokens that agree on both
        say what is where, whatever its colour, the background and the light.
        """
        c, g = self.config, generator
        images = frames.permute(0, 3, 1, 2).float().div_(255.0)
        content = _salient_points(images, g)
        looks = [self._recolour(self._background(images.clone(), g), g) for _ in range(2)]
        flip = _symmetry(len(images), g)
        grid = _crop_grid(flip, c.global_size, c.global_scale, c.rotation, None, g)
        student, teacher = (self._jitter(_sample(look, grid), g) for look in looks)
        local_crops = []
        for index in range(c.local_crops):
            grid = _crop_grid(flip, c.local_size, c.local_scale, c.rotation, content, g)
            local_crops.append(self._jitter(_sample(looks[index % 2], grid), g))
        return Views(student, teacher, local_crops)

    def relook(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Whole images ``[B, 3, H, W]`` in [0, 1] with other colours of ground and objects, another
        palette, background and light; normalised like crops."""
        images = self._background(_repaint(images, generator), generator)
        return self._jitter(self._recolour(images, generator), generator)

    def _background(self, images: Tensor, g: torch.Generator) -> Tensor:
        """Replace the most common colour by a texture in some images."""
        chosen = _rand(g, len(images), 1, 1, 1) < self.config.background
        pick = torch.randint(len(self.textures), (len(images),), generator=g, device=g.device)
        texture = self.textures[pick].permute(0, 3, 1, 2).float().div_(255.0)
        if texture.shape[-2:] != images.shape[-2:]:
            texture = F.interpolate(texture, images.shape[-2:], mode="bilinear")
        # Mixed with the old background, so that its contrast with the objects varies.
        blend = _rand(g, len(images), 1, 1, 1) * 0.8 + 0.2
        weight = _alike(images, _background_colour(images)) * blend * chosen
        return torch.lerp(images, texture, weight)

    def _recolour(self, images: Tensor, g: torch.Generator) -> Tensor:
        """Random palette (channel mixing, then a monotone curve) and low-frequency light."""
        b = len(images)
        on = (_rand(g, b, 1, 1) < self.config.recolour).float()
        eye = torch.eye(3, device=g.device)
        mix = eye + on * torch.randn(b, 3, 3, generator=g, device=g.device) * 0.45
        # Rows sum to a random gain: this keeps greys nearly grey, and changes contrast and hue.
        gain = 1.0 + on * (_rand(g, b, 3, 1) - 0.6) * 0.8
        mix = mix - (mix.sum(2, keepdim=True) - gain) / 3
        offset = on * (_rand(g, b, 3, 1) - 0.5) * 0.5
        flat = images.flatten(2)
        out = torch.baddbmm(offset + 0.5 - 0.5 * gain, mix, flat).clamp_(0.0, 1.0)
        # x + k x (1 - x) is monotone on [0, 1] for |k| <= 1, and needs no powers.
        curve = on * (_rand(g, b, 3, 1) * 2 - 1)
        out = torch.addcmul(out, curve * out, 1.0 - out).view_as(images)
        light = 1.0 + on[..., None] * (_rand(g, b, 1, 4, 4) - 0.6) * 0.6
        return out.mul_(F.interpolate(light, images.shape[-2:], mode="bilinear")).clamp_(0.0, 1.0)

    def _jitter(self, crops: Tensor, g: torch.Generator) -> Tensor:
        """Slight colour change, noise and normalisation of a view, in one matrix product."""
        b, _, h, w = crops.shape
        grey = (_rand(g, b, 1, 1) < 0.1).float()
        gain = 1.0 + (_rand(g, b, 3, 1) - 0.5) * 0.3
        offset = (_rand(g, b, 3, 1) - 0.5) * 0.1
        eye = torch.eye(3, device=g.device).expand(b, 3, 3)
        luma = torch.tensor(_LUMA, device=g.device).expand(b, 3, 3)
        mix = torch.lerp(eye, luma, grey) * gain
        mean, std = self.mean.view(1, 3, 1), self.std.view(1, 3, 1)
        out = torch.baddbmm((offset - mean) / std, mix / std, crops.flatten(2)).view_as(crops)
        pick = torch.randint(len(self.noise), (b,), generator=g, device=g.device)
        scale = _rand(g, b, 1, 1, 1) * self.config.noise / self.std.mean()
        return out.addcmul_(self.noise[pick, :, :h, :w], scale)


def _rand(g: torch.Generator, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1), on the device of the generator."""
    return torch.rand(*shape, generator=g, device=g.device)


def _unlike_background(images: Tensor) -> Tensor:
    """Largest difference ``[B, 1, H, W]`` of each pixel from the most common colour."""
    return _unlike(images, _background_colour(images))


def _unlike(images: Tensor, colour: Tensor) -> Tensor:
    """Largest difference ``[B, 1, H, W]`` of each pixel from a colour ``[B, 3, 1, 1]``."""
    return (images - colour).abs_().amax(dim=1, keepdim=True)


def _alike(images: Tensor, colour: Tensor) -> Tensor:
    """1 where a pixel has a colour ``[B, 3, 1, 1]``, falling to 0, ``[B, 1, H, W]``."""
    return (1.0 - 8.0 * _unlike(images, colour)).clamp_(0.0, 1.0)


def _background_colour(images: Tensor) -> Tensor:
    """The most common colour of each image, ``[B, 3, 1, 1]``, as the median of each channel."""
    return images[:, :, 3::7, 3::7].flatten(2).median(dim=2).values[:, :, None, None]


def _repaint(images: Tensor, g: torch.Generator) -> Tensor:
    """Replace two colours by random ones, each in half of the images: the most common colour, and
    the colour of a random place that differs from it. Shading stays."""
    ground = _background_colour(images)
    places = images[:, :, 1::3, 1::3].flatten(2)
    salience = _unlike(images, ground)[:, :, 1::3, 1::3].flatten(1) + 1e-3
    place = torch.multinomial(salience.square(), 1, generator=g)
    content = places.gather(2, place[:, None].expand(-1, 3, -1))[..., None]
    painted = images
    for colour in (ground, content):
        new = _rand(g, len(images), 3, 1, 1)
        chosen = _rand(g, len(images), 1, 1, 1) < REPAINTED
        painted = painted + _alike(images, colour) * chosen * (new - colour)
    return painted.clamp_(0.0, 1.0)


def _salient_points(images: Tensor, g: torch.Generator) -> Tensor:
    """A random point of each image [B, 2], (x, y) in [-1, 1], most likely on its content."""
    salience = F.adaptive_avg_pool2d(_unlike_background(images), 8).flatten(1) + 1e-3
    cell = torch.multinomial(salience.square(), 1, generator=g).squeeze(1)
    return torch.stack([cell % 8, cell // 8], dim=1).float() / 4 - 0.875


def _symmetry(count: int, g: torch.Generator) -> Tensor:
    """Random mirrorings and transpositions [B, 2, 2] of images, shared by all their views."""
    signs = torch.randint(0, 2, (count, 2), generator=g, device=g.device).float() * 2 - 1
    swap = _rand(g, count, 1, 1) < 0.5
    diagonal = torch.diag_embed(signs)
    return torch.where(swap, diagonal.flip(1), diagonal)


def _crop_grid(
    symmetry: Tensor,
    size: int,
    scale: tuple[float, float],
    rotation: float,
    content: Tensor | None,
    g: torch.Generator,
) -> Tensor:
    """Where the pixels of random rotated crops lie in their images, [B, size, size, 2].

    With `content` (points in [-1, 1]), seven of ten crops are centred near it, the others anywhere.
    """
    b = len(symmetry)
    area = scale[0] + (scale[1] - scale[0]) * _rand(g, b, 1)
    aspect = ((_rand(g, b, 1) - 0.5) * 0.4).exp()
    half = torch.cat([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1).clamp_max_(1.0)
    centre = _rand(g, b, 2) * 2 - 1
    if content is not None:
        near = content + (_rand(g, b, 2) - 0.5) * half
        centre = torch.where(_rand(g, b, 1) < 0.7, near, centre * (1 - half))
        centre = torch.minimum(torch.maximum(centre, half - 1), 1 - half)
    else:
        centre = centre * (1 - half)
    angle = (_rand(g, b) * 2 - 1) * math.radians(rotation)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    theta = torch.cat([turn * half[:, None] @ symmetry, centre[:, :, None]], dim=2)
    return F.affine_grid(theta, [b, 3, size, size], align_corners=False)


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)
