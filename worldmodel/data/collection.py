"""Collection of a Minari dataset, in one process or several.

Layout of the folder (Minari's HDF5 layout with lossless pixels, so that other tools can read it)::

    OUT/collection.json             the settings, written first
    OUT/data/shard-000000.hdf5 ...  episodes, SHARD in each, complete or absent
    OUT/data/main_data.hdf5         one link per episode into the shards
    OUT/data/metadata.json          written last: spaces, environment, content hash

Episode i depends on (seed, i) alone. So the dataset is the same for any number of workers, and an
interrupted collection continues where it stopped. This module does not import torch, so worker
processes start fast and stay small.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import parent_process
from pathlib import Path
from typing import Any

import h5py

from worldmodel.cli import Progress, atomic_write_bytes, atomic_write_json, exclusive, progress
from worldmodel.data.recording import CollectConfig, Recorder, episode_seed
from worldmodel.data.shards import read_shard, save_shard, shard_ranges
from worldmodel.errors import UserError

__all__ = ["CollectConfig", "collect", "episode_seed"]
NAMES = ("state_names", "proprio_names", "action_names")


def collect(config: CollectConfig) -> dict[str, Any]:
    """Collect the episodes that `config.out` lacks.

    Returns:
        {"episodes", "frames", "new_frames", "frames_per_second", "contact" (share of steps, None
        if unknown), "bytes", "dataset_id", "hash"}.

    Raises:
        UserError: an unusable setting, environment or folder, or a full disk.
    """
    recorder = Recorder(config)
    recorder.record(0)  # so that an unusable environment shows here, in one process
    hold = recorder.hold()
    data = config.out / "data"
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make folder {data}: {error.strerror}") from None
    with exclusive(config.out / ".lock", f"collecting into {config.out}"):
        _claim(config)
        for leftover in data.glob(".*"):  # of a collection that was killed while it wrote
            leftover.unlink()
        shards = shard_ranges(data, config.episodes)
        missing = {path: r for path, r in shards.items() if read_shard(path, r) is None}
        started = time.monotonic()
        new_frames = _collect_shards(config, recorder, missing) if missing else 0
        seconds = time.monotonic() - started
        summary = _link_shards(config, data, shards)
        _publish(config, recorder, data, {**summary, "hold": hold})
        for path in data.glob("shard-*.hdf5"):
            if path not in shards:  # a short last shard, replaced when the dataset was extended
                path.unlink()
    return {
        "episodes": config.episodes,
        "frames": summary["steps"] + config.episodes,
        "new_frames": new_frames,
        "frames_per_second": new_frames / seconds,
        "contact": summary["contact"],
        "bytes": sum(summary["shards"].values()),
        "dataset_id": _dataset_id(config.out),
        "hash": summary["hash"],
    }


def collection_summary(config: CollectConfig, result: dict[str, Any]) -> str:
    """What `collect` returned, one quantity a line."""
    share, new = result["contact"], result["new_frames"]
    speed = f"{result['frames_per_second']:.0f} frames/s, {new} frames"
    rows = {
        "episodes": f"{result['episodes']}",
        "frames": f"{result['frames']}",
        "speed": speed if new else "nothing was missing",
        "contact": "unknown" if share is None else f"{share:.1%} of steps",
        "size": f"{result['bytes'] / 1e6:.1f} MB in {config.out}",
        "minari id": result["dataset_id"],
    }
    return "\n".join(f"{name:<10} {value}" for name, value in rows.items())


# A worker process holds one Recorder, which lives as long as the process.
_recorder: Recorder


def _start_worker(config: CollectConfig) -> None:
    global _recorder
    # Ctrl-C reaches the whole process group; only the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with, args=(parent_process(),), daemon=True).start()
    _recorder = Recorder(config)


def _exit_with(parent: Any) -> None:
    """End this process when its parent ends, even if that was killed."""
    parent.join()
    os._exit(1)


def _work(path: Path, indices: range) -> int:
    return _collect_shard(_recorder, path, indices)


def _collect_shard(recorder: Recorder, path: Path, indices: range) -> int:
    seed = recorder.config.seed
    episodes = {i: (episode_seed(seed, i), recorder.record(i)) for i in indices}
    save_shard(path, episodes)
    return sum(len(arrays["observations/proprio"]) for _, arrays in episodes.values())


def _claim(config: CollectConfig) -> None:
    """Reserve the folder for this dataset; UserError if it holds anything else."""
    path, wanted = config.out / "collection.json", config.identity()
    if not path.exists():
        others = [p.name for p in config.out.iterdir() if p.name not in (".lock", "data")]
        others += [f"data/{p.name}" for p in (config.out / "data").iterdir()]
        if others:
            raise UserError(f"{config.out} already holds {others[0]}: choose an empty --out")
        atomic_write_json(path, {**wanted, "episodes": config.episodes})
        return
    try:
        found = json.loads(path.read_text())
        episodes = int(found.pop("episodes"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged: choose another --out or remove the folder") from None
    wanted = json.loads(json.dumps(wanted))
    for name in wanted:
        if found.get(name) != wanted[name]:
            raise UserError(
                f"{config.out} holds another dataset: its {name} is {found.get(name)!r}, "
                f"not {wanted[name]!r}. Choose another --out"
            )
    if episodes > config.episodes:
        raise UserError(
            f"{config.out} is to hold {episodes} episodes: ask for as many or more, "
            f"not {config.episodes}, or choose another --out"
        )
    atomic_write_json(path, {**wanted, "episodes": config.episodes})


def _collect_shards(config: CollectConfig, recorder: Recorder, missing: dict[Path, range]) -> int:
    """Record the missing shards, here or in worker processes. Returns the number of frames."""
    frames = 0
    length = config.steps + 1
    total = sum(len(indices) for indices in missing.values()) * length
    bar: Progress[Any] = progress(None, total, "collect", "frame")
    workers = min(config.workers, len(missing))
    if workers == 1:
        with bar:
            for path, indices in missing.items():
                frames += _collect_shard(recorder, path, indices)
                bar.update(len(indices) * length)
        return frames
    # spawn, not fork: OpenGL contexts and threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (config,)) as pool, bar:
        jobs = {pool.submit(_work, path, indices): indices for path, indices in missing.items()}
        try:
            for job in as_completed(jobs):
                frames += job.result()
                bar.update(len(jobs[job]) * length)
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, perhaps out of memory: finished episodes are kept. "
                "Run the same command again, with fewer --workers"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return frames


def _link_shards(config: CollectConfig, data: Path, shards: dict[Path, range]) -> dict[str, Any]:
    """Link all episodes into one file, and summarise them.

    Returns:
        {"steps", "shards" (size of each file in bytes), "contact", "hash" (of the content)}.
    """
    steps = 0
    contacts: list[int | None] = []
    sizes: dict[str, int] = {}
    digest = hashlib.sha256(json.dumps(config.identity(), sort_keys=True).encode())
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        for path, indices in shards.items():
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
        atomic_write_bytes(data / "main_data.hdf5", file.id.get_file_image())
    known = [int(count) for count in contacts if count is not None]
    contact = sum(known) / steps if len(known) == config.episodes else None
    return {"steps": steps, "shards": sizes, "contact": contact, "hash": digest.hexdigest()}


def _publish(
    config: CollectConfig, recorder: Recorder, data: Path, summary: dict[str, Any]
) -> None:
    """Write the metadata, which makes the dataset complete."""
    import minari
    from minari.serialization import serialize_space

    observation_space, action_space = recorder.spaces()
    metadata = {
        "dataset_id": _dataset_id(config.out),
        "minari_version": minari.__version__,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "total_episodes": config.episodes,
        "total_steps": summary["steps"],
        "dataset_size": round(sum(summary["shards"].values()) / 1e6, 1),
        "observation_space": serialize_space(observation_space),
        "action_space": serialize_space(action_space),
        "algorithm_name": config.policy,
        "description": f"{config.env}, pixels and proprio, policy {config.policy!r}",
        "worldmodel": {
            **config.identity(),
            **{name: summary[name] for name in ("hash", "shards", "contact", "hold")},
            **{kind: recorder.names(kind) for kind in NAMES},
        },
    }
    spec = recorder.env.spec
    if spec is not None:
        try:
            metadata["env_spec"] = spec.to_json()
        except (TypeError, ValueError):  # made by a local function, which a file cannot name
            pass
    atomic_write_json(data / "metadata.json", metadata)


def _dataset_id(out: Path) -> str:
    """The folder's name as a Minari id: letters, digits, - and _, with a version at its end."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in out.resolve().name)
    stem, _, version = name.rpartition("-v")
    return name if stem and version.isdecimal() else f"{name}-v0"
