"""The data of DINO-WM (Zhou et al. 2025): tensors ``[episodes, steps, ...]``, and images or MP4
files in ``obses``. It covers Push-T, the mazes, Wall, rope and granular."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worldmodel.data.image_fit import ImageFit, checked_images
from worldmodel.data.sources.source import folder_files
from worldmodel.data.video import read_video
from worldmodel.errors import UserError

Array = NDArray[Any]
ACTIONS = ("rel_actions", "abs_actions", "actions")
FIELDS = (*ACTIONS, "states", "velocities")


def is_dino_wm(path: Path) -> bool:
    return (path / "states.pth").exists()


class DinoWM:
    """A `Source`: one of the folders ``train`` and ``val``, or the whole where there are none."""

    fps: float | None = None
    cameras: tuple[str, ...] = ("obses",)

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[str, tuple[str, ...]] = {}
        self.arrays = {
            name: _load(path / f"{name}.pth") for name in FIELDS if (path / f"{name}.pth").exists()
        }
        states = self.arrays["states"]
        self.lengths = self._lengths(states)
        for name, array in self.arrays.items():
            if array.shape[:2] != states.shape[:2]:
                raise UserError(
                    f"{path}: {name}.pth is {list(array.shape)}, states.pth {list(states.shape)}"
                )
        self.images = self._images(len(states))

    def _lengths(self, states: Array) -> Array:
        for file in (self.path / "seq_lengths.pkl", self.path / "seq_lengths.pth"):
            if file.exists():
                found = _unpickle(file) if file.suffix == ".pkl" else _load(file)
                lengths = np.asarray(found, np.int64).ravel()
                if len(lengths) != len(states) or (lengths > states.shape[1]).any():
                    raise UserError(f"{file} does not fit states.pth of {list(states.shape)}")
                return lengths
        return np.full(len(states), states.shape[1], np.int64)

    def _images(self, count: int) -> list[Path]:
        obses = self.path / "obses"
        if obses.is_dir():
            found = folder_files(obses, ".mp4", ".pth")
        else:  # a folder an episode, such as 000000/obses.pth
            found = sorted(self.path.glob("*/obses.pth"))
        if len(found) != count:
            raise UserError(f"{self.path} has images of {len(found)} episodes, states of {count}")
        return found

    def __len__(self) -> int:
        return len(self.lengths)

    def where(self, episode: int) -> str:
        return str(self.images[episode])

    def fields(self, episode: int) -> dict[str, Array]:
        length = int(self.lengths[episode])
        return {
            name: array[episode, :length].reshape(length, -1).astype(np.float64)
            for name, array in self.arrays.items()
        }

    def frames(self, episode: int, camera: str, fit: ImageFit) -> Iterator[Array]:
        file, length = self.images[episode], int(self.lengths[episode])
        if file.suffix == ".mp4":
            return read_video(file, fit, 0.0, length)
        return map(fit.image, checked_images(_load(file)[:length], str(file)))


def _load(path: Path) -> Array:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    if not isinstance(found, torch.Tensor):
        raise UserError(f"{path} holds a {type(found).__name__}, not a tensor")
    array: Array = found.numpy()
    return array


class _Numbers(pickle.Unpickler):
    """Reads lists of numbers; a pickle that asks for anything else may be dangerous."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _unpickle(path: Path) -> Any:
    try:
        return _Numbers(io.BytesIO(path.read_bytes())).load()
    except (OSError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise UserError(f"{path} must hold a list of numbers: {error}") from None
