"""Minari datasets (Younis et al. 2024) of any layout: HDF5 or Arrow, with or without JPEG."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldmodel.data.image_fit import ImageFit, checked_images
from worldmodel.data.sources.source import is_image, numbers
from worldmodel.errors import UserError

Array = NDArray[Any]


def is_minari(path: Path) -> bool:
    return (path / "data" / "metadata.json").exists()


class MinariSource:
    """A `Source`. Fields of a Dict are named by their keys."""

    fps: float | None = None

    def __init__(self, path: Path) -> None:
        import minari

        self.path = path
        try:
            self.dataset = minari.MinariDataset(path / "data")
            self.count = int(self.dataset.total_episodes)
        except Exception as error:  # whatever its storage raises
            raise UserError(f"minari cannot open {path}: {error}") from None
        self.names: dict[str, tuple[str, ...]] = {}
        self._opened: tuple[int, dict[str, Any]] | None = None
        first = self._episode(0)
        self.cameras = tuple(k for k, v in first.items() if is_image(np.shape(v)))

    def _episode(self, episode: int) -> dict[str, Any]:
        """All arrays of an episode, by name. The latest one stays in memory."""
        if self._opened is None or self._opened[0] != episode:
            try:
                data = self.dataset[episode]
            except Exception as error:
                raise UserError(f"minari cannot read {self.where(episode)}: {error}") from None
            arrays = dict(_leaves(data.observations, "observations"))
            arrays |= dict(_leaves(data.infos or {}, "infos"))
            arrays |= dict(_leaves(data.actions, "actions"))
            self._opened = (episode, arrays)
        return self._opened[1]

    def __len__(self) -> int:
        return self.count

    def where(self, episode: int) -> str:
        return f"{self.path}, episode {episode}"

    def fields(self, episode: int) -> dict[str, Array]:
        arrays = self._episode(episode)
        length = max(len(v) for k, v in arrays.items() if k.startswith("observations"))
        found = {}
        for name, array in arrays.items():
            column = None if name in self.cameras else numbers(array)
            if column is not None:
                # The frame after the last action has no action.
                missing = [(0, length - len(column)), (0, 0)]
                found[name] = np.pad(column, missing, constant_values=np.nan)
        return found

    def frames(self, episode: int, camera: str, fit: ImageFit) -> Iterator[Array]:
        images = np.asarray(self._episode(episode)[camera])
        return map(fit.image, checked_images(images, self.where(episode)))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{name}.{index}")
    else:
        yield name, value
