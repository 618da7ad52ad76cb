"""Images of any size and type as uint8 ``[H, W, 3]``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FITS = {"pad": "padded", "crop": "cropped", "stretch": "squeezed"}
"""How images that are not square become squares, and the word for it: black borders, the middle
alone, or other proportions."""


def as_rgb(images: Iterable[Array], where: str) -> Iterator[Array]:
    """Images as uint8 ``[H, W, 3]``: grey ones, those with alpha or with channels first, and floats
    from 0 to 1 or from 0 to 255, are converted.

    Args:
        images: of one episode. The first decides whether floats reach 1 or 255.
        where: file and episode, for messages.

    Raises:
        ValueError: it cannot be told what an image is.
    """
    scale = 0.0  # unknown as long as images are black
    for step, image in enumerate(images):
        if image.ndim == 2:
            image = image[..., None]
        if image.ndim == 3 and image.shape[2] not in (1, 3, 4) and image.shape[0] in (1, 3, 4):
            image = np.moveaxis(image, 0, 2)
        if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
            raise ValueError(f"{where}, step {step}: an image of shape {image.shape}")
        image = image[..., :3]
        if image.dtype != np.uint8:
            low, high = float(image.min()), float(image.max())
            if not scale and high > 0:
                scale = 1.0 if high > 1 else 255.0
            if not (np.isfinite([low, high]).all() and low >= 0 and high * scale <= 255):
                raise ValueError(
                    f"{where}, step {step}: pixels from {low:g} to {high:g}; they must be "
                    "0 to 255, or 0 to 1 in the whole episode"
                )
            image = np.round(image.astype(np.float32) * scale).astype(np.uint8)
        yield np.repeat(image, 3, 2) if image.shape[2] == 1 else image


def resized(pixels: Any, size: int, fit: str = "stretch") -> Array:
    """An image uint8 ``[H, W, 3]`` as ``[size, size, 3]``.

    Args:
        pixels: the image.
        size: height and width, pixels.
        fit: one of `FITS`.

    Raises:
        ValueError: it is no such image.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"the image is {pixels.dtype} {pixels.shape}: expected uint8 [H, W, 3]")
    if fit != "stretch":
        pixels = squared(pixels, (max if fit == "pad" else min)(pixels.shape[:2]))
    if pixels.shape[:2] == (size, size):
        return pixels
    from PIL import Image

    # Pillow widens its filter when it shrinks an image, so thin objects stay visible.
    pixels = np.ascontiguousarray(pixels)
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def squared(image: Array, side: int) -> Array:
    """The middle of an image, ``[side, side, 3]``, with black borders where it is smaller."""
    height, width = image.shape[:2]
    top, left = (height - side) // 2, (width - side) // 2
    image = image[max(0, top) : max(0, top) + side, max(0, left) : max(0, left) + side]
    if image.shape[:2] == (side, side):
        return image
    square = np.zeros((side, side, 3), np.uint8)
    top, left = max(0, -top), max(0, -left)
    square[top : top + image.shape[0], left : left + image.shape[1]] = image
    return square
