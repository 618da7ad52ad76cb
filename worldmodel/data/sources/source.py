"""What a format of recorded episodes has to provide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worldmodel.data.image_fit import ImageFit
from worldmodel.errors import UserError

Array = NDArray[Any]


class Source(Protocol):
    """Recorded episodes. An episode has N frames, and as many rows of every field; the action of
    row t is the one after frame t, so the last one has no outcome.

    Attributes:
        cameras: names of its cameras.
        fps: frames a second, None if unknown.
        names: names of the numbers of a field, where they are known.
    """

    cameras: tuple[str, ...]
    fps: float | None
    names: dict[str, tuple[str, ...]]

    def __len__(self) -> int:
        """Number of episodes."""
        ...

    def where(self, episode: int) -> str:
        """File and episode, for messages."""
        ...

    def fields(self, episode: int) -> dict[str, Array]:
        """All fields of numbers, ``[N, n]`` each."""
        ...

    def frames(self, episode: int, camera: str, fit: ImageFit) -> Iterator[Array]:
        """Images of a camera, one after another, uint8 ``[S, S, 3]``."""
        ...


def numbers(array: Any) -> Array | None:
    """An array ``[N, ...]`` as ``[N, n]``, float64; None if it holds no numbers."""
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        return None
    return array.reshape(len(array), -1).astype(np.float64)


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether rows of an array of this shape are images."""
    return len(shape) == 4 and (shape[3] in (1, 3, 4) or shape[1] in (1, 3, 4)) and shape[2] >= 8


def folder_files(folder: Path, *endings: str) -> list[Path]:
    """Files of a folder that end so, in the order of their numbers."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in endings]
    return sorted(found, key=lambda p: [(len(x), x) for x in _parts(p.stem)])


def _parts(name: str) -> list[str]:
    """A name, cut where letters and digits meet, so that 10 comes after 9."""
    cut = "".join(c if c.isdigit() else f" {c} " for c in name)
    return cut.split()


def need(package: str) -> UserError:
    """The error of a missing optional package."""
    return UserError(f"this format needs {package}: pip install 'worldmodel[formats]'")
