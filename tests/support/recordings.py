"""The same few episodes, written in the layout of every format that `convert` reads."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
FPS = 10
LENGTHS = (5, 7, 4)  # frames of each episode, and rows of every column


class Episode:
    """A red square that moves over a grey ground of 96 x 96 pixels."""

    def __init__(self, index: int, frames: int) -> None:
        rng = np.random.default_rng(index)
        self.pixels = np.full((frames, 96, 96, 3), 200, np.uint8)
        for t in range(frames):
            left = 8 * t % 72
            self.pixels[t, 30:60, left : left + 24] = (200, 40, 40)
        self.actions = rng.uniform(-1, 1, (frames, 2))
        self.proprio = rng.normal(size=(frames, 3))
        self.state = rng.normal(size=(frames, 4))


EPISODES = [Episode(i, n) for i, n in enumerate(LENGTHS)]


def write_video(path: Path, frames: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "5", "g": "2"}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def _lerobot_info(root: Path, version: str, camera: dict[str, Any], **paths: Any) -> None:
    number = {"dtype": "float32", "shape": [2], "names": ["dx", "dy"]}
    info = {
        "codebase_version": version,
        "fps": FPS,
        "total_episodes": len(EPISODES),
        "features": {
            "observation.images.top": camera,
            "observation.state": {"dtype": "float32", "shape": [3], "names": None},
            "action": number,
        },
        **paths,
    }
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))


def _lerobot_columns(episode: Episode, index: int, first: int) -> dict[str, list[Any]]:
    count = len(episode.pixels)
    return {
        "observation.state": episode.proprio.astype(np.float32).tolist(),
        "action": episode.actions.astype(np.float32).tolist(),
        "timestamp": [t / FPS for t in range(count)],
        "frame_index": list(range(count)),
        "episode_index": [index] * count,
        "index": list(range(first, first + count)),
        "task_index": [0] * count,
    }


def lerobot_3(root: Path, episodes: Sequence[Episode] = EPISODES) -> Path:
    """LeRobot 3.0: all episodes in one parquet file and one video."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    key = "observation.images.top"
    _lerobot_info(
        root,
        "v3.0",
        {"dtype": "video", "shape": [96, 96, 3], "names": ["height", "width", "channels"]},
        data_path="data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        video_path="videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    )
    rows: dict[str, list[Any]] = {}
    lines, first = [], 0
    for index, episode in enumerate(episodes):
        count = len(episode.pixels)
        for name, values in _lerobot_columns(episode, index, first).items():
            rows.setdefault(name, []).extend(values)
        lines.append(
            {
                "episode_index": index,
                "length": count,
                "data/chunk_index": 0,
                "data/file_index": 0,
                "dataset_from_index": first,
                "dataset_to_index": first + count,
                f"videos/{key}/chunk_index": 0,
                f"videos/{key}/file_index": 0,
                f"videos/{key}/from_timestamp": first / FPS,
                f"videos/{key}/to_timestamp": (first + count) / FPS,
            }
        )
        first += count
    for folder in ("data/chunk-000", "meta/episodes/chunk-000"):
        (root / folder).mkdir(parents=True)
    pq.write_table(pa.table(rows), root / "data/chunk-000/file-000.parquet")
    pq.write_table(pa.Table.from_pylist(lines), root / "meta/episodes/chunk-000/file-000.parquet")
    frames = np.concatenate([episode.pixels for episode in episodes])
    write_video(root / f"videos/{key}/chunk-000/file-000.mp4", frames)
    return root


def lerobot_2(root: Path) -> Path:
    """LeRobot 2.1: a parquet file an episode, images as PNG in it."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    _lerobot_info(
        root,
        "v2.1",
        {"dtype": "image", "shape": [96, 96, 3], "names": ["height", "width", "channels"]},
        chunks_size=1000,
        data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        video_path=None,
    )
    (root / "data/chunk-000").mkdir(parents=True)
    lines, first = [], 0
    for index, count in enumerate(LENGTHS):
        columns = _lerobot_columns(EPISODES[index], index, first)
        cells = []
        for image in EPISODES[index].pixels:
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            cells.append({"bytes": png.getvalue(), "path": None})
        table = pa.table({**columns, "observation.images.top": cells})
        pq.write_table(table, root / f"data/chunk-000/episode_{index:06d}.parquet")
        lines.append(json.dumps({"episode_index": index, "tasks": [], "length": count}))
        first += count
    (root / "meta/episodes.jsonl").write_text("\n".join(lines))
    return root


def _rows(name: str) -> Array:
    return np.concatenate([getattr(episode, name) for episode in EPISODES])


def zarr_folder(root: Path) -> Path:
    """diffusion_policy: float images from 0 to 255."""
    import zarr

    path = root / "replay.zarr"
    group = zarr.open_group(path, mode="w")
    data, meta = group.create_group("data"), group.create_group("meta")
    columns = {
        "img": _rows("pixels").astype(np.float32),
        "action": _rows("actions"),
        "state": _rows("state"),
        "agent_pos": _rows("proprio"),
    }
    for name, column in columns.items():
        data[name] = column
    meta["episode_ends"] = np.cumsum(LENGTHS)
    return path


def robomimic(root: Path) -> Path:
    """robomimic: a group an episode, the frame after the last action in ``next_obs``."""
    path = root / "demo.hdf5"
    with h5py.File(path, "w") as file:
        for index, episode in enumerate(EPISODES):
            demo = file.create_group(f"data/demo_{index}")
            demo["actions"] = episode.actions[:-1]
            demo["states"] = episode.state[:-1]
            for group, rows in (("obs", slice(0, -1)), ("next_obs", slice(1, None))):
                demo[f"{group}/agentview_image"] = episode.pixels[rows]
                demo[f"{group}/robot0_eef_pos"] = episode.proprio[rows]
                demo[f"{group}/object"] = episode.state[rows]
    return path


def stable_worldmodel(root: Path) -> Path:
    """stable-worldmodel: flat columns; the last action of an episode is NaN."""
    path = root / "swm.h5"
    actions = _rows("actions")
    actions[np.cumsum(LENGTHS) - 1] = np.nan
    with h5py.File(path, "w") as file:
        file["ep_len"] = np.array(LENGTHS, np.int32)
        file["ep_offset"] = np.cumsum(LENGTHS) - LENGTHS
        file["pixels"], file["action"] = _rows("pixels"), actions
        file["proprio"], file["state"] = _rows("proprio"), _rows("state")
    return path


def _last_rows() -> Array:
    return np.isin(np.arange(sum(LENGTHS)), np.cumsum(LENGTHS) - 1)


def d4rl(root: Path) -> Path:
    path = root / "d4rl.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"] = _rows("pixels"), _rows("actions")
        file["infos/qpos"], file["state"] = _rows("proprio"), _rows("state")
        file["terminals"] = np.zeros(sum(LENGTHS), bool)
        file["timeouts"] = _last_rows()
    return path


def ogbench(root: Path) -> Path:
    path = root / "visual.npz"
    np.savez(
        path,
        observations=_rows("pixels"),
        actions=_rows("actions"),
        qpos=_rows("proprio"),
        state=_rows("state"),
        terminals=_last_rows().astype(np.float32),
    )
    return path


def dino_wm(root: Path) -> Path:
    """DINO-WM: tensors that are padded to the longest episode, and a video an episode."""

    def padded(name: str) -> torch.Tensor:
        found = np.zeros((len(EPISODES), max(LENGTHS), getattr(EPISODES[0], name).shape[1]))
        for index, episode in enumerate(EPISODES):
            found[index, : LENGTHS[index]] = getattr(episode, name)
        return torch.from_numpy(found)

    torch.save(padded("state"), root / "states.pth")
    torch.save(padded("actions"), root / "rel_actions.pth")
    torch.save(padded("proprio"), root / "velocities.pth")
    (root / "seq_lengths.pkl").write_bytes(pickle.dumps(list(LENGTHS)))
    for index, episode in enumerate(EPISODES):
        write_video(root / f"obses/episode_{index:03d}.mp4", episode.pixels)
    return root


def folders(root: Path) -> Path:
    """A folder an episode; the numbers of files and folders have no leading zeros."""
    for index, episode in enumerate(EPISODES):
        folder = root / f"run{index + 8}"
        folder.mkdir(parents=True)
        for t, image in enumerate(episode.pixels):
            Image.fromarray(image).save(folder / f"{t + 8}.png")
        np.save(folder / "proprio.npy", episode.proprio)
        np.save(folder / "state.npy", episode.state)
        header = "dx,dy"
        np.savetxt(
            folder / "actions.csv", episode.actions, delimiter=",", header=header, comments=""
        )
    return root


WRITERS: dict[str, Callable[[Path], Path]] = {
    "lerobot-3": lerobot_3,
    "lerobot-2": lerobot_2,
    "zarr": zarr_folder,
    "robomimic": robomimic,
    "stable-worldmodel": stable_worldmodel,
    "d4rl": d4rl,
    "ogbench": ogbench,
    "dino-wm": dino_wm,
    "folders": folders,
}
