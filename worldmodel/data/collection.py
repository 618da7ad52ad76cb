"""Record episodes of any Gymnasium environment that renders, as a Minari dataset.

    python -m worldmodel.collect --env worldmodel/PushT-v0 --episodes 2000 --out data/pusht

What is written (Minari's HDF5 layout, pixels lossless, so that other tools read it)::

    OUT/collection.json             what is being collected, written first
    OUT/data/shard-000000.hdf5 ...  episodes, SHARD in each, complete or absent
    OUT/data/main_data.hdf5         one link per episode into the shards
    OUT/data/metadata.json          written last: spaces, environment, content hash

Episode i depends on (seed, i) alone, so the dataset is the same whatever the number of workers,
and an interrupted collection goes on where it stopped. Nothing here imports torch: worker processes
start fast and stay small.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing.process import parent_process
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
from numpy.typing import NDArray

from worldmodel.cli import (
    Progress,
    atomic_write_bytes,
    atomic_write_json,
    exclusive,
    parse_config,
    progress,
    run,
)
from worldmodel.errors import UserError

Array = NDArray[Any]
SHARD = 20  # episodes in one file
FORMAT = 1  # raised when old and new recordings must not be mixed in one folder


@dataclass(frozen=True)
class CollectConfig:
    """What to collect."""

    env: str
    """Gymnasium id, such as worldmodel/PushT-v0 or my_package:MyEnv-v0 (imports my_package)."""
    out: Path
    """Folder of the dataset, such as data/pusht. A second call extends or completes it."""
    episodes: int = 200
    """Episodes the dataset shall hold in the end."""
    steps: int = 100
    """Actions in an episode; fewer where the environment terminates."""
    seed: int = 0
    """Seed of the whole dataset."""
    workers: int = 2
    """Processes. Changes the speed, not the data."""
    policy: str = "explore"
    """explore or wild (made for the bundled environments), or random."""
    image_size: int = 112
    """Height and width of the pixels."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment, as --env_kwargs.layout U."""

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("steps", 1), ("workers", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        if not 8 <= self.image_size <= 1024:
            raise UserError(f"image_size is {self.image_size}: choose 8 to 1024 pixels")

    def identity(self) -> dict[str, Any]:
        """The settings that decide the content of an episode."""
        names = ("env", "env_kwargs", "steps", "seed", "policy", "image_size")
        return {"format": FORMAT, **{name: asdict(self)[name] for name in names}}


# -------------------------------------------------------------------------------- one episode
class Recorder:
    """An environment seen as pixels, proprio, state; records one episode at a time.

    Raises:
        UserError: no such environment, wrong arguments, no Box actions, or nothing to render.
    """

    def __init__(self, config: CollectConfig) -> None:
        self.config = config
        self.env = _make_env(config)
        if not isinstance(self.env.action_space, gym.spaces.Box):
            raise UserError(f"{config.env} has actions {self.env.action_space}: only Box will do")
        space = self.env.observation_space
        self._has_pixels = isinstance(space, gym.spaces.Dict) and "pixels" in space.spaces
        if not self._has_pixels:
            if self.env.render_mode != "rgb_array":
                raise UserError(
                    f"{config.env} shows no pixels: it needs render_mode='rgb_array' "
                    "or an observation Dict with 'pixels'"
                )
            if not space.is_np_flattenable:
                raise UserError(f"{config.env} has observations {space}: they are not vectors")

    def record(self, index: int) -> dict[str, Array]:
        """Episode `index`: arrays with T or T+1 rows, named as in the file. See `save_shard`."""
        from envs.exploration import explorer

        config = self.config
        obs, info = self.env.reset(seed=episode_seed(config.seed, index))
        rng = np.random.default_rng([config.seed, index, 1])
        try:
            policy = explorer(self.env, config.policy, rng)
        except ValueError as error:
            raise UserError(str(error)) from None
        low, high = self.env.action_space.low, self.env.action_space.high  # type: ignore[attr-defined]
        frames, infos = [self._frame(obs)], [info]
        actions, rewards, ends = [], [], []
        over = False
        while not over:
            # Recorded as the environment takes it, so that model and plant see the same action.
            action = np.clip(policy(obs, info), low, high).astype(low.dtype)
            obs, reward, terminated, truncated, info = self.env.step(action)
            frames.append(self._frame(obs))
            infos.append(info)
            actions.append(action)
            rewards.append(float(reward))
            ends.append((terminated, truncated))
            over = terminated or truncated
        episode = {
            "observations/pixels": np.stack([pixels for pixels, _ in frames]),
            "observations/proprio": np.stack([proprio for _, proprio in frames]),
            "actions": np.stack(actions),
            "rewards": np.array(rewards),
            "terminations": np.array([bool(end[0]) for end in ends]),
            "truncations": np.array([bool(end[1]) for end in ends]),
        }
        for name, dtype in (("state", np.float64), ("contact", bool), ("is_success", bool)):
            # A missing fact about the starting frame counts as false; a missing state as unknown.
            if all(name in info for info in infos if name == "state" or info is not infos[0]):
                values = [np.asarray(info.get(name, False), dtype) for info in infos]
                episode[f"infos/{name}"] = np.stack(values)
        return episode

    def spaces(self) -> tuple[gym.spaces.Dict, gym.spaces.Box]:
        """Spaces of the recorded observations and actions."""
        obs, _ = self.env.reset(seed=0)
        pixels, proprio = self._frame(obs)
        observation_space = gym.spaces.Dict(
            {
                "pixels": gym.spaces.Box(0, 255, pixels.shape, np.uint8),
                "proprio": gym.spaces.Box(-np.inf, np.inf, proprio.shape, np.float32),
            }
        )
        assert isinstance(self.env.action_space, gym.spaces.Box)
        return observation_space, self.env.action_space

    def _frame(self, obs: Any) -> tuple[Array, Array]:
        """(pixels uint8 [image_size, image_size, 3], proprio float32 [Dp]) of now."""
        if self._has_pixels:
            pixels, proprio = obs["pixels"], obs.get("proprio", ())
        else:
            pixels = self.env.render()
            proprio = gym.spaces.flatten(self.env.observation_space, obs)
        pixels = np.asarray(pixels)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise UserError(
                f"{self.config.env} shows {pixels.dtype} {pixels.shape}: expected uint8 [H, W, 3]"
            )
        size = (self.config.image_size, self.config.image_size)
        if pixels.shape[:2] != size:
            from PIL import Image

            # Pillow widens the filter when it shrinks an image, so nothing thin gets lost.
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
        # A robot that measures nothing of itself: one zero, because a file needs some width.
        vector = np.asarray(proprio, np.float32).ravel()
        return pixels, vector if vector.size else np.zeros(1, np.float32)


def episode_seed(seed: int, index: int) -> int:
    """The seed that the environment of episode `index` is reset with."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def _make_env(config: CollectConfig) -> gym.Env[Any, Any]:
    import envs  # noqa: F401  (registers the bundled environments)

    try:
        module, _, name = config.env.rpartition(":")
        if module:
            importlib.import_module(module)
        entry = gym.spec(name).entry_point
        creator = gym.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
    except (gym.error.Error, ImportError, AttributeError) as error:
        known = sorted(name for name in gym.registry if name.startswith("worldmodel/"))
        raise UserError(f"no environment {config.env!r} ({error}); bundled: {known}") from None
    kwargs: dict[str, Any] = {"render_mode": "rgb_array", **config.env_kwargs}
    if creator is not None and "image_size" in inspect.signature(creator).parameters:
        kwargs.setdefault("image_size", config.image_size)
    try:
        return gym.make(
            config.env, max_episode_steps=config.steps, disable_env_checker=True, **kwargs
        )
    except (TypeError, ValueError, gym.error.Error, ImportError) as error:
        raise UserError(f"cannot make {config.env} with {kwargs}: {error}") from None


# ---------------------------------------------------------------------------------- one shard
def save_shard(path: Path, episodes: dict[int, tuple[int, dict[str, Array]]]) -> None:
    """Write {index: (seed, arrays)} to one HDF5 file, whole or not at all.

    A frame is a chunk of its own, so that any single one is read in 0.1 ms; gzip at its fastest
    makes a rendered 112 px frame ten times smaller in as little time, and Fletcher's checksum tells
    of damage when it is read.
    """
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        for index, (seed, arrays) in episodes.items():
            group = file.create_group(f"episode_{index}")
            digest = hashlib.sha256()
            for name, array in sorted(arrays.items()):
                options: dict[str, Any] = {}
                if name == "observations/pixels":
                    options = {
                        "chunks": (1, *array.shape[1:]),
                        "compression": "gzip",
                        "compression_opts": 1,
                        "fletcher32": True,
                    }
                group.create_dataset(name, data=array, **options)
                digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
            group.require_group("infos")
            group.attrs.update(
                {
                    "id": index,
                    "seed": seed,
                    "total_steps": len(arrays["actions"]),
                    "digest": digest.hexdigest(),
                }
            )
            if "infos/contact" in arrays:
                group.attrs["contacts"] = int(arrays["infos/contact"][1:].sum())
        file.flush()
        # Made in memory, so that a full disk is one clear error and never half a file.
        image = file.id.get_file_image()
    atomic_write_bytes(path, image)


def read_shard(path: Path, indices: range) -> list[dict[str, Any]] | None:
    """The attributes of each episode, or None unless the file holds just these, intact."""
    try:
        with h5py.File(path, "r") as file:
            if set(file) != {f"episode_{index}" for index in indices}:
                return None
            return [dict(file[f"episode_{index}"].attrs) for index in indices]
    except (OSError, KeyError, RuntimeError):
        return None


def _collect_shard(recorder: Recorder, path: Path, indices: range) -> int:
    seed = recorder.config.seed
    episodes = {i: (episode_seed(seed, i), recorder.record(i)) for i in indices}
    save_shard(path, episodes)
    return sum(len(arrays["observations/proprio"]) for _, arrays in episodes.values())


# A worker process: one Recorder, which lives as long as the process.
_recorder: Recorder


def _start_worker(config: CollectConfig) -> None:
    global _recorder
    # Ctrl-C reaches the whole process group; the parent decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with, args=(parent_process(),), daemon=True).start()
    _recorder = Recorder(config)


def _die_with(parent: Any) -> None:
    """End this process when its parent ends, however that was killed."""
    parent.join()
    os._exit(1)


def _work(path: Path, indices: range) -> int:
    return _collect_shard(_recorder, path, indices)


# -------------------------------------------------------------------------------- the dataset
def collect(config: CollectConfig) -> dict[str, Any]:
    """Collect what `config.out` still lacks.

    Returns:
        {"episodes", "frames", "new_frames", "frames_per_second", "contact" (share of steps, None
        if unknown), "bytes", "dataset_id", "hash"}.

    Raises:
        UserError: a setting, the environment or the folder will not do, or the disk is full.
    """
    recorder = Recorder(config)
    recorder.record(0)  # so that whatever is wrong with it shows here, in one process
    data = config.out / "data"
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make folder {data}: {error.strerror}") from None
    with exclusive(config.out / ".lock", f"collecting into {config.out}"):
        _claim(config)
        for leftover in data.glob(".*"):  # of a call that was killed while it wrote
            leftover.unlink()
        shards = {
            data / f"shard-{first:06d}-{min(first + SHARD, config.episodes) - 1:06d}.hdf5": range(
                first, min(first + SHARD, config.episodes)
            )
            for first in range(0, config.episodes, SHARD)
        }
        missing = {path: r for path, r in shards.items() if read_shard(path, r) is None}
        started = time.monotonic()
        new_frames = _collect_shards(config, recorder, missing) if missing else 0
        seconds = time.monotonic() - started
        result = _publish(config, recorder, shards)
    return {**result, "new_frames": new_frames, "frames_per_second": new_frames / seconds}


def _claim(config: CollectConfig) -> None:
    """Make the folder ours, or raise UserError if it holds anything else."""
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
                "a worker process was killed, perhaps for want of memory: what is finished is "
                "kept. Run the same command again, with fewer --workers"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return frames


def _publish(
    config: CollectConfig, recorder: Recorder, shards: dict[Path, range]
) -> dict[str, Any]:
    """Link the shards into one Minari dataset; its metadata, written last, make it complete."""
    import minari
    from minari.serialization import serialize_space

    data = config.out / "data"
    observation_space, action_space = recorder.spaces()
    steps = 0
    contacts: list[int | None] = []
    sizes: dict[str, int] = {}
    digest = hashlib.sha256(json.dumps(config.identity(), sort_keys=True).encode())
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        for path, indices in shards.items():
            episodes = read_shard(path, indices)
            if episodes is None:
                raise UserError(f"{path} was changed by something else: run the same command again")
            for index, attributes in zip(indices, episodes, strict=True):
                file[f"episode_{index}"] = h5py.ExternalLink(path.name, f"/episode_{index}")
                steps += int(attributes["total_steps"])
                contacts.append(attributes.get("contacts"))
                digest.update(attributes["digest"].encode())
            sizes[path.name] = path.stat().st_size
        file.flush()
        atomic_write_bytes(data / "main_data.hdf5", file.id.get_file_image())
    unwrapped = recorder.env.unwrapped
    spec = recorder.env.spec
    known = [int(count) for count in contacts if count is not None]
    contact_share = sum(known) / steps if len(known) == config.episodes else None
    size = sum(sizes.values())
    dataset_id = _dataset_id(config.out)
    metadata = {
        "dataset_id": dataset_id,
        "minari_version": minari.__version__,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "total_episodes": config.episodes,
        "total_steps": steps,
        "dataset_size": round(size / 1e6, 1),
        "observation_space": serialize_space(observation_space),
        "action_space": serialize_space(action_space),
        "algorithm_name": config.policy,
        "description": f"{config.env}, pixels and proprio, policy {config.policy!r}",
        "worldmodel": {
            **config.identity(),
            "hash": digest.hexdigest(),
            "shards": sizes,
            "contact": contact_share,
            "state_names": list(getattr(unwrapped, "state_names", ())),
            "proprio_names": list(getattr(unwrapped, "proprio_names", ())),
        },
    }
    if spec is not None:
        try:
            metadata["env_spec"] = spec.to_json()
        except (TypeError, ValueError):  # made by a local function: cannot be named in a file
            pass
    atomic_write_json(data / "metadata.json", metadata)
    for path in data.glob("shard-*.hdf5"):
        if path not in shards:  # a short last shard, replaced when the dataset was extended
            path.unlink()
    return {
        "episodes": config.episodes,
        "frames": steps + config.episodes,
        "contact": contact_share,
        "bytes": size,
        "dataset_id": dataset_id,
        "hash": digest.hexdigest(),
    }


def _dataset_id(out: Path) -> str:
    """The folder's name as a Minari id: letters, digits, - and _, with a version at its end."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in out.resolve().name)
    stem, _, version = name.rpartition("-v")
    return name if stem and version.isdecimal() else f"{name}-v0"


@run
def main(argv: list[str] | None = None) -> int:
    """The command line: collect, then say what there is."""
    config = parse_config(
        CollectConfig, argv, "worldmodel.collect", "Record episodes as a Minari dataset."
    )
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers inherit it
    result = collect(config)
    share = result["contact"]
    rows = [
        ("episodes", f"{result['episodes']}"),
        ("frames", f"{result['frames']}"),
        ("contact", "unknown" if share is None else f"{share:.1%} of steps"),
        ("size", f"{result['bytes'] / 1e6:.1f} MB in {config.out}"),
        ("minari id", f"{result['dataset_id']}"),
    ]
    if result["new_frames"]:
        speed = f"{result['frames_per_second']:.0f} frames/s, {result['new_frames']} frames"
        rows.insert(2, ("speed", speed))
    else:
        rows.insert(2, ("speed", "nothing was missing"))
    print("\n".join(f"{name:<10} {value}" for name, value in rows))
    return 0
