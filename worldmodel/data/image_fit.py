"""Images of any size, shape and type, as the square RGB images of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs.wrappers import resized
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from av import VideoFrame

Array = NDArray[Any]
MODES = ("pad", "crop", "stretch")


@dataclass(frozen=True)
class ImageFit:
    """How images become squares of one size.

    Attributes:
        size: height and width, pixels.
        mode: pad (black borders, nothing is lost), crop (the middle) or stretch.
    """

    size: int
    mode: str = "pad"

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 1024:
            raise UserError(f"image_size is {self.size}: choose 8 to 1024 pixels")
        if self.mode not in MODES:
            raise UserError(f"fit is {self.mode!r}: choose one of {', '.join(MODES)}")

    def image(self, image: Array) -> Array:
        """An image uint8 ``[H, W, 3]`` as ``[size, size, 3]``."""
        height, width = image.shape[:2]
        if height != width and self.mode != "stretch":
            side = (max if self.mode == "pad" else min)(height, width)
            image = _square(image, side)
        return resized(np.ascontiguousarray(image), self.size)

    def frame(self, frame: VideoFrame) -> Array:
        """A frame of a video as uint8 ``[size, size, 3]``. FFmpeg converts and resizes it at once,
        several times faster than `image` and nearly the same."""
        height, width = frame.height, frame.width
        if self.mode == "stretch":
            height = width = 1
        side = max(height, width) if self.mode == "pad" else min(height, width)
        new_height = max(1, round(self.size * height / side))
        new_width = max(1, round(self.size * width / side))
        small = frame.reformat(new_width, new_height, "rgb24", interpolation="BILINEAR")
        return _square(small.to_ndarray(), self.size)


def _square(image: Array, side: int) -> Array:
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


def as_rgb(images: Iterable[Array], where: str) -> Iterator[Array]:
    """Images as uint8 ``[H, W, 3]``: grey ones, those with alpha or with channels first, and floats
    from 0 to 1 or from 0 to 255, are converted.

    Args:
        images: of one episode. The first decides whether floats reach 1 or 255.
        where: file and episode, for messages.

    Raises:
        UserError: it cannot be told what an image is.
    """
    scale = 0.0  # unknown as long as images are black
    for step, image in enumerate(images):
        if image.ndim == 2:
            image = image[..., None]
        if image.ndim == 3 and image.shape[2] not in (1, 3, 4) and image.shape[0] in (1, 3, 4):
            image = np.moveaxis(image, 0, 2)
        if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
            raise UserError(f"{where}, step {step}: an image of shape {image.shape}")
        image = image[..., :3]
        if image.dtype != np.uint8:
            low, high = float(image.min()), float(image.max())
            if not scale and high > 0:
                scale = 1.0 if high > 1 else 255.0
            if not (np.isfinite([low, high]).all() and low >= 0 and high * scale <= 255):
                raise UserError(
                    f"{where}, step {step}: pixels from {low:g} to {high:g}; they must be "
                    "0 to 255, or 0 to 1 in the whole episode"
                )
            image = np.round(image.astype(np.float32) * scale).astype(np.uint8)
        yield np.repeat(image, 3, 2) if image.shape[2] == 1 else image
