"""HDF5 files of robomimic (Mandlekar et al. 2021): a group ``data/demo_i`` for each episode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from worldmodel.data.image_fit import ImageFit, checked_images
from worldmodel.data.sources.source import is_image, numbers
from worldmodel.errors import UserError

Array = NDArray[Any]


def is_robomimic(path: Path) -> bool:
    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return any(name.startswith("demo_") for name in file.get("data", ()))


class Robomimic:
    """A `Source`. Where there is ``next_obs``, its last row is the frame after the last action."""

    fps: float | None = None

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, h5py.File(path, "r")
        demos = [name for name in self.file["data"] if name.startswith("demo_")]
        self.demos = sorted(demos, key=lambda name: (len(name), name))
        first = self._demo(0)
        if "obs" not in first:
            raise UserError(f"{path} has no obs: extract observations with images first")
        self.cameras = tuple(k for k, column in first["obs"].items() if is_image(column.shape))
        self.names: dict[str, tuple[str, ...]] = {}

    def _demo(self, episode: int) -> Any:
        return self.file["data"][self.demos[episode]]

    def __len__(self) -> int:
        return len(self.demos)

    def where(self, episode: int) -> str:
        return f"{self.path}, {self.demos[episode]}"

    def fields(self, episode: int) -> dict[str, Array]:
        demo = self._demo(episode)
        after = demo.get("next_obs", {})
        found = {}
        for name, column in demo["obs"].items():
            if name not in self.cameras:
                rows = [column[:], after[name][-1:]] if name in after else [column[:]]
                found[name] = numbers(np.concatenate(rows))
        for name in ("actions", "states"):
            if name in demo:
                # Action and state of the frame after the last action are not recorded.
                unknown = [(0, int(bool(after))), (0, 0)]
                found[name] = np.pad(demo[name][:].astype(float), unknown, constant_values=np.nan)
        return {name: column for name, column in found.items() if column is not None}

    def frames(self, episode: int, camera: str, fit: ImageFit) -> Iterator[Array]:
        return map(fit.image, checked_images(self._images(episode, camera), self.where(episode)))

    def _images(self, episode: int, camera: str) -> Iterator[Array]:
        demo = self._demo(episode)
        yield from demo["obs"][camera]
        if camera in demo.get("next_obs", {}):
            yield demo["next_obs"][camera][-1]
