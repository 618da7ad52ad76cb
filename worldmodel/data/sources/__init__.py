"""Formats of recorded episodes. A further one is a `Source` and an entry in `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from worldmodel.data.sources import flat
from worldmodel.data.sources.dino_wm import DinoWM, is_dino_wm
from worldmodel.data.sources.episode_folders import EpisodeFolders, is_episode_folders
from worldmodel.data.sources.lerobot import LeRobot, is_lerobot
from worldmodel.data.sources.minari_dataset import MinariSource, is_minari
from worldmodel.data.sources.robomimic import Robomimic, is_robomimic
from worldmodel.data.sources.source import Source
from worldmodel.errors import UserError

__all__ = ["FORMATS", "Source", "open_source"]

FORMATS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], Source]]] = {
    "lerobot": (is_lerobot, LeRobot),
    "zarr": (flat.is_zarr, flat.open_zarr),
    "robomimic": (is_robomimic, Robomimic),
    "stable-worldmodel": (flat.is_stable_worldmodel, flat.open_stable_worldmodel),
    "d4rl": (flat.is_d4rl, flat.open_d4rl),
    "ogbench": (flat.is_ogbench, flat.open_ogbench),
    "dino-wm": (is_dino_wm, DinoWM),
    "minari": (is_minari, MinariSource),
    "folders": (is_episode_folders, EpisodeFolders),
}
"""Name -> whether a path looks like it, and what opens it. The first that fits is taken."""


def open_source(path: Path, format: str = "auto") -> tuple[str, Source]:
    """The name of the format, and the episodes.

    Raises:
        UserError: no such path or format, or the path is of another format.
    """
    if format != "auto" and format not in FORMATS:
        raise UserError(f"format is {format!r}: there are auto, {', '.join(FORMATS)}")
    if not path.exists():
        raise UserError(f"no file or folder {path}")
    names = list(FORMATS) if format == "auto" else [format]
    for name in names:
        fits, opened = FORMATS[name]
        if fits(path):
            source = opened(path)
            if not len(source):
                raise UserError(f"{path} holds no episode")
            return name, source
    raise UserError(
        f"{path} is not of the format {format}: see docs/your-robot.md"
        if format != "auto"
        else f"{path} is of no known format ({', '.join(FORMATS)}): see docs/your-robot.md"
    )
