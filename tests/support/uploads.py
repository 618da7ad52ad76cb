"""Files that tests upload."""

from __future__ import annotations

import io

from PIL import Image


def png(size: tuple[int, int] = (112, 112), mode: str = "RGB") -> bytes:
    """A white PNG image."""
    buffer = io.BytesIO()
    Image.new(mode, size, "white").save(buffer, "PNG")
    return buffer.getvalue()
