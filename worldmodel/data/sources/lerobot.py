"""Datasets of LeRobot, versions 2.0, 2.1 and 3.0: parquet files, and images or MP4 files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldmodel.data.image_fit import ImageFit, checked_images
from worldmodel.data.sources.source import need
from worldmodel.data.video import read_video
from worldmodel.errors import UserError

Array = NDArray[Any]
COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")


def is_lerobot(path: Path) -> bool:
    return (path / "meta" / "info.json").exists()


class LeRobot:
    """A `Source`."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow.parquet
        except ImportError:
            raise need("pyarrow") from None
        self._parquet: Any = pyarrow.parquet
        self.path = path
        info = _read_json(path / "meta" / "info.json")
        try:
            self.info, self.features = info, info["features"]
            version = str(info["codebase_version"]).removeprefix("v")
            self.fps: float | None = float(info["fps"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path / 'meta' / 'info.json'} lacks {error}") from None
        if version.split(".")[0] not in ("2", "3"):
            raise UserError(f"{path} is LeRobot {version}: versions 2 and 3 are read")
        self.cameras = tuple(
            key for key, feature in self.features.items() if feature["dtype"] in ("video", "image")
        )
        self.names = {key: _names(feature) for key, feature in self.features.items()}
        self.episodes = self._episodes_3() if version.startswith("3") else self._episodes_2()
        self._opened: tuple[Path, Any] | None = None

    def _episodes_2(self) -> list[dict[str, Any]]:
        """An entry an episode: its file, its rows and where its videos begin."""
        file = self.path / "meta" / "episodes.jsonl"
        try:
            lines = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {file}: {error}") from None
        chunk = int(self.info.get("chunks_size", 1000))
        episodes = []
        for line in sorted(lines, key=lambda line: int(line["episode_index"])):
            index = int(line["episode_index"])
            place = {"episode_chunk": index // chunk, "episode_index": index}
            videos = {}
            for key in self.cameras:
                if self.features[key]["dtype"] == "video":
                    videos[key] = (self._file("video_path", video_key=key, **place), 0.0)
            file = self._file("data_path", **place)
            episodes.append({"index": index, "file": file, "rows": None, "videos": videos})
        return episodes

    def _episodes_3(self) -> list[dict[str, Any]]:
        files = sorted((self.path / "meta" / "episodes").glob("*/*.parquet"))
        if not files:
            raise UserError(f"{self.path} has no meta/episodes/*/*.parquet")
        lines = [line for file in files for line in self._parquet.read_table(file).to_pylist()]
        starts: dict[Path, int] = {}
        episodes = []
        for line in sorted(lines, key=lambda line: int(line["episode_index"])):
            file = self._file(
                "data_path",
                chunk_index=line["data/chunk_index"],
                file_index=line["data/file_index"],
            )
            first, last = int(line["dataset_from_index"]), int(line["dataset_to_index"])
            start = starts.setdefault(file, first)
            videos = {}
            for key in self.cameras:
                if self.features[key]["dtype"] == "video":
                    where = f"videos/{key}"
                    video = self._file(
                        "video_path",
                        video_key=key,
                        chunk_index=line[f"{where}/chunk_index"],
                        file_index=line[f"{where}/file_index"],
                    )
                    videos[key] = (video, float(line[f"{where}/from_timestamp"]))
            episodes.append(
                {
                    "index": int(line["episode_index"]),
                    "file": file,
                    "rows": slice(first - start, last - start),
                    "videos": videos,
                }
            )
        return episodes

    def _file(self, template: str, **values: Any) -> Path:
        return self.path / str(self.info[template]).format(**values)

    def _table(self, episode: int) -> Any:
        """The rows of an episode. The latest file stays in memory, as it holds several episodes."""
        entry = self.episodes[episode]
        file = entry["file"]
        if self._opened is None or self._opened[0] != file:
            try:
                self._opened = (file, self._parquet.read_table(file))
            except (OSError, ValueError) as error:
                raise UserError(f"cannot read {file}: {error}") from None
        table, rows = self._opened[1], entry["rows"]
        if rows is not None:
            table = table.slice(rows.start, rows.stop - rows.start)
        indices = set(table["episode_index"].to_pylist())
        if indices != {entry["index"]}:
            raise UserError(
                f"{self.where(episode)}: its rows are of episodes {sorted(indices)[:5]}; "
                "meta/ and data/ disagree"
            )
        return table

    def __len__(self) -> int:
        return len(self.episodes)

    def where(self, episode: int) -> str:
        entry = self.episodes[episode]
        return f"{entry['file']}, episode {entry['index']}"

    def fields(self, episode: int) -> dict[str, Array]:
        table = self._table(episode)
        self._check_clock(episode, np.asarray(table["timestamp"], np.float64))
        found = {}
        for name in table.column_names:
            if name not in COUNTERS and name not in self.cameras:
                column = table[name].to_pylist()
                if isinstance(column[0], list | int | float):
                    found[name] = np.array(column, np.float64).reshape(len(column), -1)
        return found

    def _check_clock(self, episode: int, times: Array) -> None:
        assert self.fps is not None
        off = np.abs(np.diff(times) - 1 / self.fps)
        if len(off) and off.max() > 0.5 / self.fps:
            step = int(off.argmax())
            raise UserError(
                f"{self.where(episode)}, step {step}: {times[step + 1] - times[step]:.4g} s until "
                f"the next frame at {self.fps:g} frames a second; frames are missing, or the clock "
                "is wrong"
            )

    def frames(self, episode: int, camera: str, fit: ImageFit) -> Iterator[Array]:
        table = self._table(episode)
        if camera in self.episodes[episode]["videos"]:
            file, start = self.episodes[episode]["videos"][camera]
            return read_video(file, fit, start, len(table))
        images = (self._image(cell) for cell in table[camera].to_pylist())
        return map(fit.image, checked_images(images, self.where(episode)))

    def _image(self, cell: dict[str, Any]) -> Array:
        stored = cell["bytes"]
        file = io.BytesIO(stored) if stored else self.path / cell["path"]
        with Image.open(file) as image:
            return np.array(image)


def _names(feature: dict[str, Any]) -> tuple[str, ...]:
    """Names of the numbers of a feature: a list, or a dict of lists."""
    names = feature.get("names") or ()
    if isinstance(names, dict):
        names = [name for part in names.values() for name in part]
    return tuple(map(str, names))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
