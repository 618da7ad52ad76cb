"""Reading image files, such as goal images, at the size of a model."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from worldmodel.errors import UserError

Array = NDArray[Any]


def load_image(path: str | Path, size: int) -> Array:
    """An RGB image file of `size` x `size` pixels, as uint8 ``[size, size, 3]``.

    Raises:
        UserError: the file is missing, no image, not RGB, or of another size.
    """
    try:
        with open(path, "rb") as file:
            return read_image(file, str(path), size)
    except FileNotFoundError:
        raise UserError(f"no image at {path}") from None
    except OSError as error:
        raise UserError(f"{path} is not an image that can be read: {error}") from None


def read_image(file: IO[bytes], name: str, size: int) -> Array:
    """The same from an open file; `name` is for error messages. The header is checked before the
    image is decoded."""
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
