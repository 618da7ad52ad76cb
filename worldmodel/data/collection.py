"""Collection of a Minari dataset, in one process or several.

The folder is laid out as `minari_folder` says. Episode i depends on (seed, i) alone. So the dataset
is the same for any number of workers, and an interrupted collection continues where it stopped.
This module does not import torch, so worker processes start fast and stay small.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import parent_process
from pathlib import Path
from typing import Any

from worldmodel.cli import Progress, progress
from worldmodel.data.minari_folder import Content, MinariFolder
from worldmodel.data.recording import CollectConfig, Recorder, episode_seed
from worldmodel.data.shards import save_shard
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
    if seen := recorder.sentence():
        print(seen, file=sys.stderr)
    hold = recorder.hold()
    folder = MinariFolder(config.out, config.identity(), config.episodes)
    with folder.claimed("collecting") as missing:
        started = time.monotonic()
        new_frames = _collect_shards(config, recorder, missing) if missing else 0
        seconds = time.monotonic() - started
        content = folder.link()
        _publish(config, recorder, folder, content, hold)
    return {
        "episodes": config.episodes,
        "frames": content.steps + config.episodes,
        "new_frames": new_frames,
        "frames_per_second": new_frames / seconds,
        "contact": content.contact,
        "bytes": sum(content.bytes.values()),
        "dataset_id": folder.dataset_id,
        "hash": content.hash,
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
    return save_shard(path, ((i, episode_seed(seed, i), recorder.record(i)) for i in indices))


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


def _publish(
    config: CollectConfig,
    recorder: Recorder,
    folder: MinariFolder,
    content: Content,
    hold: list[float] | str | None,
) -> None:
    spec = recorder.env.spec
    try:
        env_spec = spec.to_json() if spec is not None else None
    except (TypeError, ValueError):  # made by a local function, which a file cannot name
        env_spec = None
    proprio, actions = recorder.sizes()
    folder.publish(
        content,
        config.image_size,
        proprio,
        actions,
        config.policy,
        f"{config.env}, pixels and proprio, policy {config.policy!r}",
        {
            "hold": hold,
            "choices": recorder.choices,
            "fit": recorder.fit,
            **{kind: recorder.names(kind) for kind in NAMES},
        },
        env_spec,
    )
