"""Formats in which the rows of all episodes follow one another.

==================  =========================================================================
zarr                diffusion_policy: ``data/*`` and ``meta/episode_ends``; .zarr or .zarr.zip
stable-worldmodel   HDF5: columns, ``ep_offset`` and ``ep_len``
d4rl                HDF5: columns, ``terminals`` and perhaps ``timeouts``
ogbench             npz: columns, and ``terminals``
==================  =========================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from worldmodel.data.image_fit import ImageFit, checked_images
from worldmodel.data.sources.source import is_image, need, numbers
from worldmodel.errors import UserError

Array = NDArray[Any]
BATCH = 64  # images that are read at once


class FlatSource:
    """A `Source` of columns ``[all rows, ...]``, which are read in parts.

    Args:
        path: of the file, for messages.
        columns: arrays, or what can be sliced as one.
        ends: the row after the last one of each episode, ascending ``[E]``.
    """

    fps: float | None = None

    def __init__(self, path: Path, columns: Mapping[str, Any], ends: Array) -> None:
        rows = {name: column.shape[0] for name, column in columns.items() if column.shape}
        steps = np.diff(ends, prepend=0)
        if not len(ends) or (steps <= 0).any():
            raise UserError(f"{path}: the ends of the episodes do not ascend")
        total = int(ends[-1])
        self.columns = {name: columns[name] for name, count in rows.items() if count >= total}
        short = [name for name in rows if "action" in name and name not in self.columns]
        if short:
            raise UserError(
                f"{path}: {short[0]} has {rows[short[0]]} rows, and the episodes end at {total}"
            )
        self.path, self.ends, self.starts = path, ends, ends - steps
        self.cameras = tuple(n for n, column in self.columns.items() if is_image(column.shape))
        self.names: dict[str, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self.ends)

    def where(self, episode: int) -> str:
        return f"{self.path}, episode {episode} (rows {self.starts[episode]} on)"

    def fields(self, episode: int) -> dict[str, Array]:
        rows = slice(int(self.starts[episode]), int(self.ends[episode]))
        found = {
            name: numbers(column[rows])
            for name, column in self.columns.items()
            if name not in self.cameras
        }
        return {name: column for name, column in found.items() if column is not None}

    def frames(self, episode: int, camera: str, fit: ImageFit) -> Iterator[Array]:
        return map(fit.image, checked_images(self._images(episode, camera), self.where(episode)))

    def _images(self, episode: int, camera: str) -> Iterator[Array]:
        end = int(self.ends[episode])
        for start in range(int(self.starts[episode]), end, BATCH):
            yield from np.asarray(self.columns[camera][start : min(start + BATCH, end)])


def ends_of_flags(path: Path, *flags: Any) -> Array:
    """Ends of episodes, from flags ``[rows]`` of their last rows. Rows after the last flag are an
    episode, too."""
    last = np.any([np.asarray(flag).astype(bool).ravel() for flag in flags], axis=0)
    if not len(last):
        raise UserError(f"{path} has no rows")
    last[-1] = True
    ends: Array = np.flatnonzero(last) + 1
    return ends


def is_zarr(path: Path) -> bool:
    return path.name.endswith((".zarr", ".zarr.zip"))


def open_zarr(path: Path) -> FlatSource:
    """A replay buffer of diffusion_policy (Chi et al. 2023)."""
    try:
        import zarr
    except ImportError:
        raise need("zarr") from None
    try:
        store: Any = path
        if path.suffix == ".zip":
            store = zarr.storage.ZipStore(path, mode="r")
        root: Any = zarr.open_group(store, mode="r")
        ends = np.asarray(root["meta/episode_ends"][:], np.int64)
        columns = dict(root["data"].arrays())
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} is no zarr with data and meta/episode_ends: {error}") from None
    return FlatSource(path, columns, ends)


def is_stable_worldmodel(path: Path) -> bool:
    return _holds(path, "ep_len", "ep_offset")


def open_stable_worldmodel(path: Path) -> FlatSource:
    """An HDF5 file of stable-worldmodel."""
    columns = _columns(path)
    lengths, starts = (np.asarray(columns.pop(k)[:], np.int64) for k in ("ep_len", "ep_offset"))
    if not np.array_equal(starts, np.cumsum(lengths) - lengths):
        raise UserError(f"{path}: ep_offset and ep_len do not follow one another")
    return FlatSource(path, columns, starts + lengths)


def is_d4rl(path: Path) -> bool:
    return _holds(path, "actions", "terminals")


def open_d4rl(path: Path) -> FlatSource:
    """An HDF5 file of D4RL (Fu et al. 2020)."""
    columns = _columns(path)
    flags = [columns[name][:] for name in ("terminals", "timeouts") if name in columns]
    return FlatSource(path, columns, ends_of_flags(path, *flags))


def is_ogbench(path: Path) -> bool:
    return path.suffix == ".npz"


def open_ogbench(path: Path) -> FlatSource:
    """An npz file of OGBench (Park et al. 2025). It is in memory as a whole."""
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if "terminals" not in columns:
        raise UserError(f"{path} has no terminals, only {', '.join(columns) or 'nothing'}")
    return FlatSource(path, columns, ends_of_flags(path, columns["terminals"]))


def _holds(path: Path, *names: str) -> bool:
    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return all(name in file for name in names)


def _columns(path: Path) -> dict[str, Any]:
    """All arrays of an HDF5 file, by their path in it."""
    columns: dict[str, Any] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            columns[name] = item

    h5py.File(path, "r").visititems(add)
    return columns
