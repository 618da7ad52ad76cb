"""Recorded episodes of other programs, as a Minari dataset that training reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from envs.observation_fields import Part, parse_parts, robots_own, spelled
from worldmodel.cli import Progress, progress
from worldmodel.data.image_fit import ImageFit
from worldmodel.data.minari_folder import MinariFolder
from worldmodel.data.recording import parse_hold
from worldmodel.data.shards import SHARD, save_shard
from worldmodel.data.sources import Source, open_source
from worldmodel.errors import UserError

Array = NDArray[Any]
FORMAT = 1  # raised when old and new conversions must not be mixed in one folder
SHARD_FRAMES = 4000  # about as many in one file, so that memory stays flat
ACTIONS = ("action", "actions", "rel_actions", "abs_actions")
STATES = (
    *("state", "states", "infos.state"),
    *("observation.environment_state", "environment_state", "observation.truth"),
)


@dataclass(frozen=True)
class ConvertConfig:
    """What to convert, and how."""

    SHORT: ClassVar = {"from": "format"}
    POSITIONAL: ClassVar = "source"

    source: Path
    """File or folder of the episodes. --source may be left out before it."""
    out: Path | None = None
    """Folder of the dataset, such as data/robot. Without it, the command only prints what is in
    the source."""
    format: str = "auto"
    """auto, or lerobot, zarr, robomimic, stable-worldmodel, d4rl, ogbench, dino-wm, minari,
    folders. --from lerobot is short for --format lerobot."""
    camera: str = ""
    """The camera, where there are several."""
    action: str = ""
    """Field of the actions; default: action, actions, rel_actions or abs_actions."""
    proprio: str = ""
    """Fields that the robot measures of itself, separated by commas; a part as state[0:2]; or
    none. Default: fields whose names say that they are the robot's own."""
    state: str = ""
    """Field of the simulator's state, for probes; or none. Default: state, states or alike."""
    image_size: int = 112
    """Height and width of the images, pixels."""
    fit: str = "pad"
    """How images that are not square become so: pad, crop or stretch."""
    episodes: int = 0
    """Number of episodes, from the first one on; 0: all."""
    env: str = ""
    """Gymnasium id that the episodes were recorded in, where there is one."""
    hold: str = ""
    """The action that keeps the robot where it is: zero, repeat or its numbers."""
    to: str = "minari"
    """minari, for training; or lerobot: write a dataset of training as LeRobot 3.0."""
    fps: int = 10
    """Frames a second, with --to lerobot."""
    task: str = "explore"
    """What was done, with --to lerobot."""

    def __post_init__(self) -> None:
        ImageFit(self.image_size, self.fit)
        if self.episodes < 0:
            raise UserError(f"episodes is {self.episodes}: it must be at least 0")
        if self.to not in ("minari", "lerobot"):
            raise UserError(f"to is {self.to!r}: choose minari or lerobot")
        if self.fps < 1:
            raise UserError(f"fps is {self.fps}: it must be at least 1")


@dataclass(frozen=True)
class Fields:
    """What is taken of each episode.

    Attributes:
        camera: its name.
        action, state: fields, "" for no state.
        proprio: fields, and the numbers of each that are taken.
    """

    camera: str
    action: str
    state: str
    proprio: tuple[Part, ...]

    @classmethod
    def choose(cls, config: ConvertConfig, source: Source) -> Fields:
        """Raise a UserError where the config names what is not there, or cannot be guessed."""
        found, where = source.fields(0), source.where(0)
        if not source.cameras:
            raise UserError(f"{where} has no images, only {', '.join(found) or 'nothing'}")
        camera = config.camera or source.cameras[0]
        if camera not in source.cameras or (not config.camera and len(source.cameras) > 1):
            given = f"there is no camera {camera!r}" if config.camera else "several cameras"
            raise UserError(f"{where}: {given}: choose --camera {' or '.join(source.cameras)}")
        action = config.action or next((name for name in ACTIONS if name in found), "")
        state = config.state or next((name for name in STATES if name in found), "none")
        if not action:
            raise UserError(f"{where} has no actions: name them with --action {'|'.join(found)}")
        for name in (action, *([] if state == "none" else [state])):
            if name not in found:
                raise UserError(f"{where} has no field {name!r}: there are {', '.join(found)}")
        widths = {name: column.shape[1] for name, column in found.items()}
        try:
            proprio = parse_parts(config.proprio or ",".join(robots_own(found)), widths)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        return cls(camera, action, "" if state == "none" else state, proprio)

    def sentence(self) -> str:
        """What is taken, in words."""
        parts = [f"camera {self.camera}", f"actions {self.action}"]
        taken = ", ".join(map(spelled, self.proprio))
        parts.append(f"proprio {taken}" if taken else "no proprio (--proprio names fields)")
        return ", ".join([*parts, f"state {self.state}" if self.state else "no state"])

    def names(self, source: Source) -> dict[str, list[str]]:
        """Names of the numbers of a state, an action and proprio."""
        widths = {name: column.shape[1] for name, column in source.fields(0).items()}

        def named(field: str) -> list[str]:
            known = source.names.get(field, ())
            if len(known) == widths[field]:
                return list(known)
            return [f"{field}_{i}" for i in range(widths[field])]

        proprio = [name for field, part in self.proprio for name in named(field)[part]]
        return {
            "action_names": named(self.action),
            "proprio_names": proprio,
            "state_names": named(self.state) if self.state else [],
        }


def convert(config: ConvertConfig) -> dict[str, Any]:
    """Convert the episodes that `config.out` lacks.

    Returns:
        {"format", "fields" (a sentence), "episodes", "frames", "new_frames", "bytes",
        "dataset_id"}.

    Raises:
        UserError: an unusable setting or folder; damaged, missing or wrong data, with the file, the
            episode and the step; a full disk.
    """
    assert config.out is not None
    name, source = open_source(config.source, config.format)
    fields, fit = Fields.choose(config, source), ImageFit(config.image_size, config.fit)
    if config.episodes > len(source):
        raise UserError(f"episodes is {config.episodes}: {config.source} has {len(source)}")
    count = config.episodes or len(source)
    identity = {
        "format": FORMAT,
        "source": str(config.source),
        "source_format": name,
        "camera": fields.camera,
        "action": fields.action,
        "state_field": fields.state,
        "proprio": list(map(spelled, fields.proprio)),
        "image_size": config.image_size,
        "fit": config.fit,
        "env": config.env,
    }
    shard = max(1, min(SHARD, SHARD_FRAMES // len(source.fields(0)[fields.action])))
    folder = MinariFolder(config.out, identity, count, shard)
    new = 0
    with folder.claimed("converting") as missing:
        total = sum(len(indices) for indices in missing.values())
        bar: Progress[Any] = progress(None, total, "convert", "episode")
        with bar:
            for path, indices in missing.items():
                new += save_shard(path, _episodes(source, fields, fit, indices, bar))
        content = folder.link()
        low, high = _bounds(folder)
        actions = gym.spaces.Box(low, high, dtype=np.float32)
        folder.publish(
            content,
            config.image_size,
            sum(part.stop - part.start for _, part in fields.proprio) or 1,
            actions,
            name,
            f"{config.source}, converted from {name}",
            {
                "hold": parse_hold(config.hold, low, high) if config.hold else None,
                "fps": source.fps,
                **fields.names(source),
            },
        )
    return {
        "format": name,
        "fields": fields.sentence(),
        "episodes": count,
        "frames": content.steps + count,
        "new_frames": new,
        "bytes": sum(content.bytes.values()),
        "dataset_id": folder.dataset_id,
    }


def _episodes(
    source: Source, fields: Fields, fit: ImageFit, indices: range, bar: Progress[Any]
) -> Iterator[tuple[int, int, dict[str, Array]]]:
    for index in indices:
        yield index, -1, _episode(source, fields, fit, index)
        bar.update(1)


def _episode(source: Source, fields: Fields, fit: ImageFit, index: int) -> dict[str, Array]:
    """Arrays of an episode, by their name in the file."""
    where, found = source.where(index), source.fields(index)
    for name in {fields.action, *([fields.state] if fields.state else [])} - set(found):
        raise UserError(f"{where} has no field {name!r}, which the first episode has")
    rows = len(found[fields.action])
    if rows < 2:
        raise UserError(f"{where} has {rows} frame: at least 2 are needed for an action")
    frames = np.stack(list(source.frames(index, fields.camera, fit)))
    if len(frames) not in (rows, rows + 1):
        raise UserError(
            f"{where} has {len(frames)} frames and {rows} actions: it needs as many frames as "
            "actions, or one more"
        )
    steps = len(frames) - 1  # the last of as many actions as frames has no outcome
    proprio = [np.zeros((len(frames), 1))] if not fields.proprio else []
    for name, part in fields.proprio:
        if name not in found or len(found[name]) < len(frames):
            raise UserError(f"{where} has {len(frames)} frames, and {name} is shorter or missing")
        proprio.append(found[name][: len(frames), part])
    episode = {
        "observations/pixels": frames,
        "observations/proprio": np.concatenate(proprio, 1).astype(np.float32),
        "actions": found[fields.action][:steps].astype(np.float32),
        "rewards": np.zeros(steps),
        "terminations": np.zeros(steps, bool),
        "truncations": np.arange(steps) == steps - 1,
    }
    for key in ("actions", "observations/proprio"):
        bad = ~np.isfinite(episode[key]).all(1)
        if bad.any():
            step = int(bad.argmax())
            raise UserError(
                f"{where}, step {step}: {key.split('/')[-1]} is {episode[key][step].tolist()}; "
                "all numbers must be finite"
            )
    if fields.state and len(found[fields.state]) >= len(frames):
        episode["infos/state"] = found[fields.state][: len(frames)]
    return episode


def _bounds(folder: MinariFolder) -> tuple[Array, Array]:
    """Least and greatest action of the dataset ``[A]``, which planners keep to. A number that never
    changes may change by a thousandth, so that it can be normalised."""
    import h5py

    low, high = np.inf, -np.inf
    for path, indices in folder.shards.items():
        with h5py.File(path, "r") as file:
            for index in indices:
                actions = file[f"episode_{index}/actions"][:]
                low, high = np.minimum(low, actions.min(0)), np.maximum(high, actions.max(0))
    least = 5e-4 * np.maximum(1, np.abs(high))
    constant = high - low < least
    return (
        np.where(constant, low - least, low).astype(np.float32),
        np.where(constant, high + least, high).astype(np.float32),
    )


def conversion_summary(config: ConvertConfig, result: dict[str, Any]) -> str:
    """What `convert` returned, one quantity a line."""
    shape = "" if config.fit == "stretch" else f" (images that are not square: {config.fit})"
    rows = {
        "format": result["format"],
        "fields": result["fields"],
        "images": f"{config.image_size} x {config.image_size} pixels{shape}",
        "episodes": f"{result['episodes']}",
        "frames": f"{result['frames']}",
        "new": f"{result['new_frames']} frames" if result["new_frames"] else "nothing was missing",
        "size": f"{result['bytes'] / 1e6:.1f} MB in {config.out}",
        "minari id": result["dataset_id"],
    }
    return "\n".join(f"{name:<10} {value}" for name, value in rows.items())


def inspect(config: ConvertConfig) -> str:
    """What is in a source: episodes, lengths, cameras, and the range of each number of each field.

    Raises:
        UserError: as `convert`, but images are not read.
    """
    name, source = open_source(config.source, config.format)
    lengths: list[int] = []
    ranges: dict[str, tuple[Array, Array]] = {}
    count = config.episodes or len(source)
    for index in progress(range(min(count, len(source))), count, "inspect", "episode"):
        found = source.fields(index)
        lengths.append(max(map(len, found.values()), default=0))
        for field, column in found.items():
            low, high = ranges.get(field, (np.inf, -np.inf))
            with np.errstate(invalid="ignore"):
                ranges[field] = (
                    np.fmin(low, np.fmin.reduce(column)),
                    np.fmax(high, np.fmax.reduce(column)),
                )
    rate = "unknown" if source.fps is None else f"{source.fps:g} a second"
    lines = [
        f"format     {name}",
        f"episodes   {len(source)}",
        f"frames     {sum(lengths)}, {min(lengths)} to {max(lengths)} in an episode; rate {rate}",
        f"cameras    {', '.join(source.cameras) or 'none'}",
    ]
    for field, (low, high) in ranges.items():
        names = source.names.get(field, ())
        lines.append(f"{field} [{len(low)}]")
        for i, (least, greatest) in enumerate(zip(low, high, strict=True)):
            label = names[i] if i < len(names) else str(i)
            lines.append(f"    {label:<24} {least:.6g} to {greatest:.6g}")
    return "\n".join(lines)
