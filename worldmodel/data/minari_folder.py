"""The folder of a Minari dataset that this package writes.

Layout (Minari's HDF5 layout with lossless pixels, so that other tools can read it)::

    OUT/collection.json             the settings, written first
    OUT/data/shard-000000.hdf5 ...  a few episodes in each, complete or absent
    OUT/data/main_data.hdf5         one link per episode into the shards
    OUT/data/metadata.json          written last: spaces, environment, content hash

So what was interrupted continues where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np

from worldmodel.cli import atomic_write_bytes, atomic_write_json, exclusive
from worldmodel.data.shards import SHARD, read_shard, shard_ranges
from worldmodel.errors import UserError


@dataclass(frozen=True)
class Content:
    """What a complete folder holds.

    Attributes:
        steps: actions of all episodes.
        contact: share of steps with contact, None if unknown.
        bytes: size of each shard, by its name.
        hash: of the content, hex.
    """

    steps: int
    contact: float | None
    bytes: dict[str, int]
    hash: str


class MinariFolder:
    """A folder that is filled with `episodes` episodes.

    Args:
        out: the folder.
        identity: the settings that determine the content of an episode.
        episodes: number of episodes in the complete dataset.
        shard: episodes in one file.
    """

    def __init__(
        self, out: Path, identity: dict[str, Any], episodes: int, shard: int = SHARD
    ) -> None:
        self.out, self.identity, self.episodes = out, identity, episodes
        self.data = out / "data"
        self.shards = shard_ranges(self.data, episodes, shard)

    @contextlib.contextmanager
    def claimed(self, doing: str) -> Iterator[dict[Path, range]]:
        """The shards that are missing. Nobody else writes to the folder within the ``with`` block.

        Args:
            doing: what for, for the message to another process: "collecting".

        Raises:
            UserError: the folder cannot be made, is in use, or holds anything else.
        """
        try:
            self.data.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make folder {self.data}: {error.strerror}") from None
        with exclusive(self.out / ".lock", f"{doing} into {self.out}"):
            self._claim()
            for leftover in self.data.glob(".*"):  # of a process that was killed while it wrote
                leftover.unlink()
            yield {path: r for path, r in self.shards.items() if read_shard(path, r) is None}

    def _claim(self) -> None:
        out, path = self.out, self.out / "collection.json"
        wanted = json.loads(json.dumps(self.identity))
        if path.exists():
            try:
                found = json.loads(path.read_text())
                episodes = int(found.pop("episodes"))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise UserError(
                    f"{path} is damaged: choose another --out or remove the folder"
                ) from None
            for name in wanted:
                if found.get(name) != wanted[name]:
                    raise UserError(
                        f"{out} holds another dataset: its {name} is {found.get(name)!r}, "
                        f"not {wanted[name]!r}. Choose another --out"
                    )
            if episodes > self.episodes:
                raise UserError(
                    f"{out} is to hold {episodes} episodes: ask for as many or more, "
                    f"not {self.episodes}, or choose another --out"
                )
        else:
            others = [p.name for p in out.iterdir() if p.name not in (".lock", "data")]
            others += [f"data/{p.name}" for p in self.data.iterdir()]
            if others:
                raise UserError(f"{out} already holds {others[0]}: choose an empty --out")
        atomic_write_json(path, {**wanted, "episodes": self.episodes})

    def link(self) -> Content:
        """Link all episodes into one file, and summarise them.

        Raises:
            UserError: a shard is missing or damaged.
        """
        steps = 0
        contacts: list[int | None] = []
        sizes: dict[str, int] = {}
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode())
        with h5py.File("memory", "w", driver="core", backing_store=False) as file:
            for path, indices in self.shards.items():
                episodes = read_shard(path, indices)
                if episodes is None:
                    raise UserError(f"another program changed {path}: run the same command again")
                for index, attributes in zip(indices, episodes, strict=True):
                    file[f"episode_{index}"] = h5py.ExternalLink(path.name, f"/episode_{index}")
                    steps += int(attributes["total_steps"])
                    contacts.append(attributes.get("contacts"))
                    digest.update(attributes["digest"].encode())
                sizes[path.name] = path.stat().st_size
            file.flush()
            atomic_write_bytes(self.data / "main_data.hdf5", file.id.get_file_image())
        known = [int(count) for count in contacts if count is not None]
        contact = sum(known) / steps if len(known) == self.episodes else None
        return Content(steps, contact, sizes, digest.hexdigest())

    def publish(
        self,
        content: Content,
        size: int,
        proprio: int,
        actions: gym.spaces.Box,
        algorithm: str,
        description: str,
        ours: dict[str, Any],
        env_spec: str | None = None,
    ) -> None:
        """Write the metadata, which makes the dataset complete.

        Args:
            content: what `link` returned.
            size: height and width of images, pixels.
            proprio: numbers of proprio.
            actions: action space.
            algorithm: what acted.
            description: one sentence.
            ours: what this package reads beside Minari's metadata.
            env_spec: the environment's spec, JSON.
        """
        import minari
        from minari.serialization import serialize_space

        observations = gym.spaces.Dict(
            {
                "pixels": gym.spaces.Box(0, 255, (size, size, 3), np.uint8),
                "proprio": gym.spaces.Box(-np.inf, np.inf, (proprio,), np.float32),
            }
        )
        metadata = {
            "dataset_id": self.dataset_id,
            "minari_version": minari.__version__,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "total_episodes": self.episodes,
            "total_steps": content.steps,
            "dataset_size": round(sum(content.bytes.values()) / 1e6, 1),
            "observation_space": serialize_space(observations),
            "action_space": serialize_space(actions),
            "algorithm_name": algorithm,
            "description": description,
            "worldmodel": {
                **self.identity,
                "hash": content.hash,
                "shards": content.bytes,
                "contact": content.contact,
                **ours,
            },
            **({"env_spec": env_spec} if env_spec else {}),
        }
        atomic_write_json(self.data / "metadata.json", metadata)
        for path in self.data.glob("shard-*.hdf5"):
            if path not in self.shards:  # a short last shard, replaced by an extension
                path.unlink()

    @property
    def dataset_id(self) -> str:
        """The folder's name as a Minari id: letters, digits, - and _, with a version at its end."""
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in self.out.resolve().name)
        stem, _, version = name.rpartition("-v")
        return name if stem and version.isdecimal() else f"{name}-v0"
