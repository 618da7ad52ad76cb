"""A dataset in the layout of LeRobot 3.0: parquet, MP4 and JSON, for its tools and policies."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from worldmodel.cli import progress
from worldmodel.data.dataset import Dataset
from worldmodel.data.sources.source import need
from worldmodel.errors import UserError

Array = NDArray[Any]
CAMERA, PROPRIO, STATE = "observation.images.camera", "observation.state", "observation.truth"
EPISODES = 500  # in one file of each kind
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
QUALITY = {"crf": "18", "g": "2"}  # of the video; every second frame can be sought
INDEX = "__index_level_0__"
# LeRobot reads the tasks with pandas, as the index of their table.
TASKS_INDEX = {
    "index_columns": [INDEX],
    "column_indexes": [],
    "columns": [
        {
            "name": None,
            "field_name": INDEX,
            "pandas_type": "unicode",
            "numpy_type": "object",
            "metadata": None,
        }
    ],
}
COUNTERS = ("frame_index", "episode_index", "index", "task_index")


def write_lerobot(dataset: Dataset, out: Path, fps: float, task: str) -> None:
    """Write a dataset to a new folder, completely or not at all.

    LeRobot has an action for every frame: the last frame of an episode repeats the one before.

    Args:
        dataset: what to write.
        out: the folder.
        fps: frames a second.
        task: one sentence about what was done, which LeRobot stores with each episode.

    Raises:
        UserError: the folder exists, or pyarrow is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise need("pyarrow") from None
    if out.exists():
        raise UserError(f"{out} exists: choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        lines = []
        for number, first in enumerate(range(0, dataset.episodes, EPISODES)):
            episodes = range(first, min(first + EPISODES, dataset.episodes))
            place = PLACE.format(chunk_index=0, file_index=number)
            table = pyarrow.table(_columns(dataset, episodes, fps))
            _write_table(pyarrow, table, folder / f"data/{place}.parquet")
            _write_video(folder / f"videos/{CAMERA}/{place}.mp4", dataset, episodes, fps)
            lines += list(_lines(dataset, episodes, number, fps, task))
        meta = folder / "meta"
        episodes_table = pyarrow.Table.from_pylist(lines)
        place = PLACE.format(chunk_index=0, file_index=0)
        _write_table(pyarrow, episodes_table, meta / f"episodes/{place}.parquet")
        tasks = pyarrow.table({"task_index": [0], INDEX: [task]})
        tasks = tasks.replace_schema_metadata({"pandas": json.dumps(TASKS_INDEX)})
        _write_table(pyarrow, tasks, meta / "tasks.parquet")
        (meta / "stats.json").write_text(json.dumps(_stats(dataset, fps), indent=2))
        (meta / "info.json").write_text(json.dumps(_info(dataset, fps), indent=2))
        folder.chmod(0o755)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_table(pyarrow: Any, table: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)


def _numbers(dataset: Dataset, episodes: range) -> dict[str, Array]:
    """What frames have beside images, float32 ``[N, n]``."""
    rows = slice(int(dataset.offsets[episodes.start]), int(dataset.offsets[episodes.stop]))
    actions = dataset.actions[rows].copy()
    ends = dataset.offsets[episodes.start + 1 : episodes.stop + 1] - 1 - rows.start
    actions[ends] = actions[ends - 1]
    found = {PROPRIO: dataset.proprio[rows], "action": actions}
    if dataset.state is not None:
        found[STATE] = dataset.state[rows].astype(np.float32)
    return found


def _columns(dataset: Dataset, episodes: range, fps: float) -> dict[str, Any]:
    lengths = dataset.lengths[list(episodes)] + 1
    steps = np.concatenate([np.arange(n) for n in lengths])
    first = int(dataset.offsets[episodes.start])
    numbers = _numbers(dataset, episodes)
    return {
        **{name: list(column) for name, column in numbers.items()},
        "timestamp": (steps / fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.repeat(list(episodes), lengths),
        "index": first + np.arange(len(steps)),
        "task_index": np.zeros(len(steps), np.int64),
    }


def _write_video(path: Path, dataset: Dataset, episodes: range, fps: float) -> None:
    """The frames of some episodes, one after another."""
    path.parent.mkdir(parents=True)
    height, width, _ = dataset.pixels_shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=round(fps))
        stream.height, stream.width = height, width
        stream.pix_fmt, stream.options = "yuv420p", QUALITY
        for episode in progress(episodes, len(episodes), "video", "episode"):
            for image in dataset.pixels(dataset.frames(episode)):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def _lines(
    dataset: Dataset, episodes: range, number: int, fps: float, task: str
) -> Iterator[dict[str, Any]]:
    """An entry an episode: where its rows and its frames are."""
    before = int(dataset.offsets[episodes.start])
    for episode in episodes:
        first, last = (int(dataset.offsets[e]) for e in (episode, episode + 1))
        yield {
            "episode_index": episode,
            "tasks": [task],
            "length": last - first,
            "data/chunk_index": 0,
            "data/file_index": number,
            "dataset_from_index": first,
            "dataset_to_index": last,
            f"videos/{CAMERA}/chunk_index": 0,
            f"videos/{CAMERA}/file_index": number,
            f"videos/{CAMERA}/from_timestamp": (first - before) / fps,
            f"videos/{CAMERA}/to_timestamp": (last - before) / fps,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }


def _stats(dataset: Dataset, fps: float) -> dict[str, Any]:
    """Least, greatest, mean and standard deviation of each field; of images, from a sample."""
    every = range(dataset.episodes)
    columns = _columns(dataset, every, fps)
    fields = {**_numbers(dataset, every), **{k: columns[k][:, None] for k in COUNTERS}}
    fields["timestamp"] = columns["timestamp"][:, None]
    found = {name: _summary(column, 0) for name, column in fields.items()}
    sample = np.linspace(0, len(dataset) - 1, min(len(dataset), 200)).astype(int)
    images = dataset.pixels(sample).astype(np.float64) / 255
    found[CAMERA] = _summary(images.transpose(0, 3, 1, 2), (0, 2, 3))
    return found


def _summary(values: Array, axes: int | tuple[int, ...]) -> dict[str, Any]:
    """Statistics over some axes, of the shape that LeRobot expects."""
    keep = isinstance(axes, tuple)

    def shaped(array: Array) -> Any:
        return (array[0] if keep else array).astype(float).tolist()

    values = values.astype(np.float64)
    return {
        "min": shaped(values.min(axes, keepdims=keep)),
        "max": shaped(values.max(axes, keepdims=keep)),
        "mean": shaped(values.mean(axes, keepdims=keep)),
        "std": shaped(values.std(axes, keepdims=keep)),
        "count": [len(values)],
    }


def _info(dataset: Dataset, fps: float) -> dict[str, Any]:
    height, width, _ = dataset.pixels_shape

    def numbers(names: tuple[str, ...], size: int) -> dict[str, Any]:
        return {"dtype": "float32", "shape": [size], "names": list(names) or None}

    video = {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": round(fps),
        "video.channels": 3,
        "has_audio": False,
    }
    features: dict[str, Any] = {
        CAMERA: {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": video,
        },
        PROPRIO: numbers(dataset.proprio_names, dataset.proprio.shape[1]),
        "action": numbers(dataset.action_names, dataset.actions.shape[1]),
    }
    if dataset.state is not None:
        features[STATE] = numbers(dataset.state_names, dataset.state.shape[1])
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    features |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in COUNTERS}
    return {
        "codebase_version": "v3.0",
        "robot_type": None,
        "total_episodes": dataset.episodes,
        "total_frames": len(dataset),
        "total_tasks": 1,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": round(fps),
        "splits": {"train": f"0:{dataset.episodes}"},
        "data_path": f"data/{PLACE}.parquet",
        "video_path": f"videos/{{video_key}}/{PLACE}.mp4",
        "features": features,
    }
