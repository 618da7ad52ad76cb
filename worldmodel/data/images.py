"""Reading image files, such as goal images, at the size of a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from envs.pictures import FITS
from worldmodel.data.image_fit import ImageFit
from worldmodel.errors import UserError

Array = NDArray[Any]


def load_image(path: str | Path, size: int, fit: str = "stretch") -> Array:
    """An image file as uint8 ``[size, size, 3]``, turned as its EXIF data say. One of another size
    is fitted, with a line on stderr.

    Args:
        path: any format that Pillow reads; RGB, grey, or with a palette or opaque alpha.
        size: height and width, pixels.
        fit: how it becomes a square: see `ImageFit`.

    Raises:
        UserError: the file is missing, or no such image.
    """
    try:
        with Image.open(path) as image:
            turned = ImageOps.exif_transpose(image)
            pixels = _rgb(turned, str(path))
    except FileNotFoundError:
        raise UserError(f"no image at {path}") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image that can be read: its format is unknown") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not an image that can be read: {error}") from None
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
