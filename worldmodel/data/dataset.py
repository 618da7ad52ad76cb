"""Recorded episodes.

`open_dataset` opens a Minari dataset (HDF5) whose observations are a Dict with ``pixels`` and,
usually, ``proprio``: one from ``python -m worldmodel.collect`` or ``convert``, or from any other
program. The frames of all episodes are concatenated, N in all. Pixels are read on demand;
everything else is in memory.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldmodel.errors import UserError

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Concatenated episodes of N frames. Frame ``offsets[e] + t`` is step t of episode e.

    An episode of T actions has T + 1 frames. Its last frame has no action: there ``actions`` is NaN
    and ``has_action`` is False.
    """

    path: Path
    env_id: str  #: Gymnasium id, "" if it was not recorded
    env_kwargs: dict[str, Any]
    hash: str  #: of the content, hex
    lengths: Array  #: actions per episode, int64 [E]
    offsets: Array  #: first frame of each episode, then N, int64 [E + 1]
    seeds: Array  #: env.reset(seed=...) of each episode, -1 if unknown, int64 [E]
    actions: Array  #: float32 [N, A]
    proprio: Array  #: float32 [N, Dp]
    state: Array | None  #: simulator truth, float64 [N, Ds], None if it was not recorded
    contact: Array | None  #: whether the robot touched an object in the step before, bool [N]
    action_low: Array  #: float32 [A]
    action_high: Array  #: float32 [A]
    pixels_shape: tuple[int, int, int]  #: (H, W, 3)
    state_names: tuple[str, ...]
    proprio_names: tuple[str, ...]
    jpeg: bool  #: frames are stored as JPEG, Minari's default
    action_names: tuple[str, ...] = ()
    #: the action that keeps the robot where it is, [A]; "repeat": the last action again; None:
    #: not declared
    hold: list[float] | str | None = None
    #: how images of the camera became squares: see `image_fit`
    fit: str = "stretch"
    #: how many options each choice of an action has, where actions are choices
    choices: tuple[int, ...] = ()

    @property
    def episodes(self) -> int:
        """Number of episodes E."""
        return len(self.lengths)

    def __len__(self) -> int:
        """Number of frames N."""
        return int(self.offsets[-1])

    @functools.cached_property
    def has_action(self) -> Array:
        """Whether an action follows the frame, bool [N]."""
        followed = np.ones(len(self), bool)
        followed[self.offsets[1:] - 1] = False
        return followed

    def frames(self, episode: int) -> slice:
        """The T + 1 frames of one episode, as a slice of the N."""
        if not 0 <= episode < self.episodes:
            raise IndexError(f"episode is {episode}; the dataset has {self.episodes}")
        return slice(int(self.offsets[episode]), int(self.offsets[episode + 1]))

    def pixels(self, frames: slice | int | ArrayLike) -> Array:
        """Read images from disk.

        Args:
            frames: indices in 0..N-1, any order, repeats allowed; or a slice of the N frames, such
                as ``frames(episode)``.

        Returns:
            uint8 [n, H, W, 3] in the order asked for; [H, W, 3] for a single integer.

        Raises:
            UserError: the file is damaged.
            IndexError: an index is out of range.
        """
        if isinstance(frames, (int, np.integer)):
            return self.pixels([int(frames)])[0]
        if isinstance(frames, slice):
            frames = np.arange(len(self))[frames]
        index = np.asarray(frames, np.int64)
        if index.ndim != 1:
            raise IndexError(f"frames has shape {index.shape}; expected indices [n]")
        if len(index) and not 0 <= index.min() <= index.max() < len(self):
            raise IndexError(f"frames reach {index.min()}..{index.max()}; there are {len(self)}")
        out = np.empty((len(index), *self.pixels_shape), np.uint8)
        episode = np.searchsorted(self.offsets, index, "right") - 1
        # In the order of the file; consecutive frames are one read.
        order = np.argsort(index, kind="stable")
        breaks = (np.diff(index[order]) != 1) | (np.diff(episode[order]) != 0)
        for run in np.split(order, np.flatnonzero(breaks) + 1) if len(order) else ():
            first = int(index[run[0]] - self.offsets[episode[run[0]]])
            out[run] = self._read(int(episode[run[0]]), first, first + len(run))
        return out

    def _read(self, episode: int, start: int, stop: int) -> Array:
        try:
            stored = self._open(episode)[start:stop]
            if self.jpeg:
                from PIL import Image

                stored = np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in stored])
        except (OSError, KeyError, RuntimeError) as error:
            link = self._handles()["main"].get(f"episode_{episode}", getlink=True)
            file = self.path / "data" / getattr(link, "filename", "main_data.hdf5")
            raise UserError(
                f"cannot read the pixels of episode {episode} ({_plain(error)}): delete {file} "
                "and run the command that made the dataset again"
            ) from None
        return stored

    def _open(self, episode: int) -> h5py.Dataset:
        """Stored frames of an episode; the last few stay open: opening costs more than reading."""
        handles = self._handles()
        if episode not in handles:
            if len(handles) > 128:
                del handles[next(key for key in handles if key != "main")]
            handles[episode] = handles["main"][f"episode_{episode}/observations/pixels"]
        return handles[episode]

    def _handles(self) -> dict[Any, Any]:
        # An HDF5 handle must not be shared with a forked child: each process opens its own.
        pid, handles = self.__dict__.get("_files", (0, {}))
        if pid != os.getpid():
            handles = {"main": h5py.File(self.path / "data" / "main_data.hdf5", "r")}
            self.__dict__["_files"] = (os.getpid(), handles)
        return handles

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_files"}


def open_dataset(path: str | Path) -> Dataset:
    """Open a Minari HDF5 dataset: the folder that ``collect --out`` wrote, or its ``data``.

    Raises:
        UserError: no dataset, an unfinished collection, a missing, truncated or damaged file, no
            pixels, or actions that are not a Box.
    """
    path = Path(path)
    if path.name == "data" and (path / "metadata.json").exists():
        path = path.parent
    try:
        metadata = json.loads((path / "data" / "metadata.json").read_text())
    except FileNotFoundError:
        if (path / "collection.json").exists():
            raise UserError(
                f"{path} is not complete: run the command that makes it again, it continues where "
                "it stopped"
            ) from None
        raise UserError(
            f"no dataset in {path}: make one with `python -m worldmodel.collect --out {path}`, or "
            "with `python -m worldmodel.convert` from episodes that you have"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path / 'data' / 'metadata.json'}: {error}") from None
    ours = metadata.get("worldmodel", {})
    if metadata.get("data_format") != "hdf5":
        raise UserError(f"{path} is stored as {metadata.get('data_format')!r}: only hdf5 is read")
    for name, size in ours.get("shards", {}).items():
        file = path / "data" / name
        found = file.stat().st_size if file.exists() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise UserError(
                f"{file} {what}: run the command that made the dataset again, it makes the lost "
                "episodes"
            )
    try:
        return _load(path, metadata, ours)
    except (OSError, KeyError, RuntimeError, TypeError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} is damaged or not a dataset of pixels and Box actions: {_plain(error)}"
        ) from None


def _load(path: Path, metadata: dict[str, Any], ours: dict[str, Any]) -> Dataset:
    """The dataset of parsed metadata; `ours` is the part that only ``collect`` writes."""
    space = json.loads(metadata["action_space"])
    pixels_space = json.loads(metadata["observation_space"])["subspaces"]["pixels"]
    total = int(metadata["total_episodes"])
    if space["type"] != "Box" or total == 0:
        raise UserError(f"{path} has {total} episodes with actions {space['type']}: need Box")
    shape = pixels_space["shape"]
    if pixels_space["dtype"] != "uint8" or len(shape) != 3 or shape[2] != 3:
        raise UserError(f"{path} has pixels {pixels_space['dtype']} {shape}: need uint8 [H, W, 3]")
    lengths, seeds, columns = _columns(path, total)
    actions, proprio = columns["actions"], columns["proprio"]
    assert actions is not None
    if proprio is None:
        raise UserError(f"{path} lacks the proprio of some episodes")
    spec = json.loads(metadata.get("env_spec") or "{}")
    low, high = (
        np.broadcast_to(np.asarray(space[side], np.float32), space["shape"]).ravel()
        for side in ("low", "high")
    )
    return Dataset(
        path=path,
        env_id=ours.get("env") or spec.get("id") or "",
        env_kwargs=ours.get("env_kwargs") or {},
        hash=ours.get("hash") or _content_hash(path, metadata, actions, proprio),
        lengths=lengths,
        offsets=np.concatenate([[0], np.cumsum(lengths + 1)]),
        seeds=seeds,
        actions=actions,
        proprio=proprio,
        state=columns["state"],
        contact=columns["contact"],
        action_low=low,
        action_high=high,
        pixels_shape=(shape[0], shape[1], 3),
        state_names=tuple(ours.get("state_names", ())),
        proprio_names=tuple(ours.get("proprio_names", ())),
        jpeg=bool(metadata.get("jpeg_encoding", True)) and min(shape[:2]) >= 32,
        action_names=tuple(ours.get("action_names", ())),
        hold=ours.get("hold"),
        fit=ours.get("fit", "stretch"),
        choices=tuple(ours.get("choices", ())),
    )


def _columns(path: Path, total: int) -> tuple[Array, Array, dict[str, Array | None]]:
    """Lengths and seeds of the episodes ``[E]``, and everything small that was recorded of their
    frames ``[N, ...]``, None where an episode lacks it."""
    parts: dict[str, list[Array | None]] = {
        name: [] for name in ("actions", "proprio", "state", "contact")
    }
    seeds = np.full(total, -1, np.int64)
    lengths = np.zeros(total, np.int64)
    for episode, group in enumerate(_groups(path / "data" / "main_data.hdf5", total)):
        actions = np.asarray(group["actions"][()], np.float32)
        lengths[episode] = length = len(actions)
        seeds[episode] = group.attrs.get("seed", -1)
        actions = actions.reshape(length, -1)
        last = np.full((1, actions.shape[1]), np.nan, np.float32)
        parts["actions"].append(np.concatenate([actions, last]))
        for name, key, dtype in (
            ("proprio", "observations/proprio", np.float32),
            ("state", "infos/state", np.float64),
            ("contact", "infos/contact", bool),
        ):
            found = np.asarray(group[key][()], dtype) if key in group else None
            # Minari allows infos without the first frame; these cannot be aligned.
            aligned = found is not None and len(found) == length + 1
            parts[name].append(found if aligned else None)
    if parts["proprio"][0] is None:  # logs of a robot without proprioception
        parts["proprio"] = [np.zeros((length + 1, 1), np.float32) for length in lengths]
    columns: dict[str, Array | None] = {}
    for name, rows in parts.items():
        present = [row for row in rows if row is not None]
        columns[name] = np.concatenate(present) if len(present) == total else None
    return lengths, seeds, columns


def _content_hash(path: Path, metadata: dict[str, Any], actions: Array, proprio: Array) -> str:
    """Hash of a dataset whose metadata has none, because another program wrote it."""
    sizes = [p.stat().st_size for p in sorted((path / "data").glob("*.hdf5"))]
    content = hashlib.sha256(json.dumps([metadata, sizes], sort_keys=True).encode())
    content.update(actions.tobytes())
    content.update(proprio.tobytes())
    return content.hexdigest()


def _groups(path: Path, count: int) -> Iterator[h5py.Group]:
    """The first `count` episodes of a main file, each linked file opened once, not per episode."""
    with h5py.File(path, "r") as main, contextlib.ExitStack() as opened:
        name, shard = "", main
        for episode in range(count):
            link = main.get(f"episode_{episode}", getlink=True)
            if isinstance(link, h5py.ExternalLink):
                if name != link.filename:
                    opened.close()
                    shard = opened.enter_context(h5py.File(path.parent / link.filename, "r"))
                    name = link.filename
                yield shard[link.path]
            else:
                yield main[f"episode_{episode}"]


def _plain(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]


def split(dataset: Dataset, held_out: float = 0.1) -> tuple[Array, Array]:
    """Episode numbers for training and held out, both int64 and ascending.

    Every 1/held_out-th episode is held out (at least one). So the split is not random, and an
    episode keeps its side when the dataset is extended.

    Raises:
        UserError: held_out is not in [0, 1), or no episode would be left to train on.
    """
    if not 0 <= held_out < 1:
        raise UserError(f"held_out is {held_out}: it must be at least 0 and below 1")
    episodes = np.arange(dataset.episodes)
    # The rounding keeps 0.1 * 10 from falling just short of 1.
    upto = np.floor(np.round(np.arange(dataset.episodes + 1) * held_out, 9))
    held = np.diff(upto) > 0
    if held_out > 0 and not held.any():
        held[-1] = True
    if held.all():
        raise UserError(f"{dataset.episodes} episodes leave none to train on: collect more")
    return episodes[~held], episodes[held]
