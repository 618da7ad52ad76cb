"""Reading image files, such as goal images, at the size of a model."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from envs.pictures import FITS
from worldmodel.data.image_fit import ImageFit
from worldmodel.data.video import video_frame
from worldmodel.errors import UserError

Array = NDArray[Any]
# Which frame of a video: seconds, or a number.
WHEN = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?s|[0-9]{1,9}")


def load_image(path: str | Path, size: int, fit: str = "stretch") -> Array:
    """An image as uint8 ``[size, size, 3]``. One of another size is fitted, with a line on stderr.

    Args:
        path: see `read_pixels`.
        size: height and width, pixels.
        fit: how it becomes a square: see `ImageFit`.

    Raises:
        UserError: the file is missing, or no such image.
    """
    return fit_pixels(read_pixels(path), path, size, fit)


def load_images(names: str | Path, size: int, fit: str = "stretch") -> Array:
    """The images in ``a.png,b.png``, uint8 ``[N, size, size, 3]``: see `load_image`."""
    return np.stack([load_image(name, size, fit) for name in split_names(names)])


def load_mask(path: str | Path, size: int, fit: str = "stretch") -> Array:
    """A mask, bool ``[size, size]``: true where an image (see `load_image`) is white.

    Raises:
        UserError: the image is unusable, or black everywhere.
    """
    mask: Array = load_image(path, size, fit).mean(-1) > 127
    if not mask.any():
        raise UserError(f"{path} is black everywhere: paint white what counts")
    return mask


def split_names(names: str | Path) -> list[str]:
    """The names in ``a.png,b.png``, at least one. A file whose own name has a comma is one.

    Raises:
        UserError: one of several is empty.
    """
    text = str(names)
    found = [text] if os.path.exists(text) else text.split(",")
    if "" in found:
        raise UserError(f"{text!r} has an empty name: write names with commas, as a.png,b.png")
    return found


def read_pixels(path: str | Path) -> Array:
    """An image file, turned as its EXIF data say, or a frame of a video, uint8 ``[H, W, 3]``.

    Args:
        path: any format that Pillow reads; RGB, grey, or with a palette or opaque alpha. Or a video
            and which of its frames, as ``demo.mp4@12.5s`` or ``demo.mp4@300``: see `video_frame`.

    Raises:
        UserError: the file is missing, or no such image or video.
    """
    if is_video_frame(path):
        return _frame(str(path))
    try:
        with Image.open(path) as image:
            turned = ImageOps.exif_transpose(image)
            return _rgb(turned, str(path))
    except FileNotFoundError:
        raise UserError(f"no image at {path}") from None
    except UnidentifiedImageError:
        raise UserError(
            f"{path} is not an image that can be read: its format is unknown; for a frame of a "
            f"video write {path}@12.5s"
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not an image that can be read: {error}") from None


def is_video_frame(path: str | Path) -> bool:
    """Whether `path` is no file but names a frame of one, as ``demo.mp4@12.5s``."""
    video, at, _ = str(path).rpartition("@")
    return bool(at) and not os.path.exists(path) and os.path.exists(video)


def _frame(path: str) -> Array:
    """The frame that ``demo.mp4@12.5s`` names."""
    video, _, when = path.rpartition("@")
    if not WHEN.fullmatch(when):
        raise UserError(f"{path} names no frame: write seconds, {video}@12.5s, or a number, @300")
    return video_frame(Path(video), when)


def fit_pixels(pixels: Array, path: str | Path, size: int, fit: str) -> Array:
    """Pixels ``[H, W, 3]`` as ``[size, size, 3]``, as `load_image` does; `path` names them."""
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    how = "resized" if height == width else FITS[fit]
    print(f"{path}: {width} x {height} pixels, {how} to {size} x {size}", file=sys.stderr)
    return ImageFit(size, fit).image(pixels)


def _rgb(image: Image.Image, name: str) -> Array:
    """A plain image as uint8 ``[H, W, 3]``."""
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise UserError(f"{name} is transparent in places: save it as plain RGB")
    if image.mode not in ("RGB", "RGBA", "L", "LA", "P"):
        raise UserError(f"{name} has mode {image.mode}: save it as plain RGB, 8 bits a channel")
    return np.array(image.convert("RGB"))


def read_image(file: IO[bytes], name: str, size: int) -> Array:
    """An RGB image of `size` x `size` pixels from an open file, uint8 ``[size, size, 3]``. The
    header is checked before the image is decoded.

    Args:
        file: of unknown origin.
        name: for messages.
        size: height and width, pixels.

    Raises:
        UserError: it is no such image.
    """
    try:
        with Image.open(file) as image:
            if image.mode != "RGB":
                raise UserError(
                    f"{name} has mode {image.mode} ({len(image.getbands())} channel(s)): "
                    "save it as plain RGB, 8 bits a channel"
                )
            if image.size != (size, size):
                raise UserError(
                    f"{name} is {image.width}x{image.height} pixels: this model takes "
                    f"{size}x{size}; crop and resize it as the camera images were"
                )
            image.load()
            return np.array(image)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name} is not an image that can be read: its format is unknown") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{name} is not an image that can be read: {error}") from None
