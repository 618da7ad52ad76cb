"""Images of any size, shape and type, as the square RGB images of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from envs.pictures import FITS, as_rgb, resized, squared
from worldmodel.errors import UserError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

Array = NDArray[Any]


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
        if self.mode not in FITS:
            raise UserError(f"fit is {self.mode!r}: choose one of {', '.join(FITS)}")

    def image(self, image: Array) -> Array:
        """An image uint8 ``[H, W, 3]`` as ``[size, size, 3]``."""
        return resized(image, self.size, self.mode)

    def frame(self, frame: VideoFrame, reformatter: VideoReformatter) -> Array:
        """A frame of a video as uint8 ``[size, size, 3]``. FFmpeg converts and resizes it at once,
        several times faster than `image` and nearly the same.

        Args:
            frame: as it was decoded.
            reformatter: one for all frames of a video, which it prepares for once.
        """
        height, width = frame.height, frame.width
        if self.mode == "stretch":
            height = width = 1
        side = max(height, width) if self.mode == "pad" else min(height, width)
        new_height = max(1, round(self.size * height / side))
        new_width = max(1, round(self.size * width / side))
        small = reformatter.reformat(
            frame, new_width, new_height, "rgb24", interpolation="BILINEAR"
        )
        return squared(small.to_ndarray(), self.size)


def checked_images(images: Iterable[Array], where: str) -> Iterator[Array]:
    """`envs.pictures.as_rgb`, whose errors are the user's."""
    try:
        yield from as_rgb(images, where)
    except ValueError as error:
        raise UserError(str(error)) from None
