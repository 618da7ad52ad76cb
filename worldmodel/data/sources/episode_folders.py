"""A folder an episode: images (``*.png``, ``*.jpg``) or one video, ``actions.npy`` or
``actions.csv``, and further columns, such as ``proprio.npy``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from worldmodel.data.image_fit import ImageFit, checked_images
from worldmodel.data.sources.source import folder_files, numbers
from worldmodel.data.video import read_video
from worldmodel.errors import UserError

Array = NDArray[Any]
IMAGES, VIDEOS, COLUMNS = (".png", ".jpg", ".jpeg"), (".mp4", ".mkv", ".avi"), (".npy", ".csv")


def is_episode_folders(path: Path) -> bool:
    return path.is_dir() and bool(_episodes(path))


def _episodes(path: Path) -> list[Path]:
    found = {file.parent for file in path.glob("*/actions.*") if file.suffix in COLUMNS}
    return sorted(found, key=lambda p: (len(p.name), p.name))


class EpisodeFolders:
    """A `Source`."""

    fps: float | None = None
    cameras: tuple[str, ...] = ("images",)

    def __init__(self, path: Path) -> None:
        self.path, self.episodes = path, _episodes(path)
        self.names: dict[str, tuple[str, ...]] = {}
        if not self.episodes:
            raise UserError(f"{path} has no folder with actions.npy or actions.csv")

    def __len__(self) -> int:
        return len(self.episodes)

    def where(self, episode: int) -> str:
        return str(self.episodes[episode])

    def fields(self, episode: int) -> dict[str, Array]:
        found = {}
        for file in folder_files(self.episodes[episode], *COLUMNS):
            column = numbers(self._column(file))
            if column is None:
                raise UserError(f"{file} holds no numbers")
            found[file.stem] = column
        return found

    def _column(self, file: Path) -> Array:
        try:
            if file.suffix == ".npy":
                return np.atleast_1d(np.load(file, allow_pickle=False))
            with open(file, encoding="utf-8") as text:
                first = text.readline().split(",")
            header = any(not _is_number(cell) for cell in first)
            if header:
                self.names[file.stem] = tuple(cell.strip() for cell in first)
            return np.loadtxt(file, delimiter=",", skiprows=int(header), ndmin=2)
        except (OSError, ValueError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {file}: {error}") from None

    def frames(self, episode: int, camera: str, fit: ImageFit) -> Iterator[Array]:
        folder = self.episodes[episode]
        images, videos = folder_files(folder, *IMAGES), folder_files(folder, *VIDEOS)
        if images and not videos:
            return map(fit.image, checked_images(map(_read, images), str(folder)))
        if len(videos) == 1 and not images:
            return read_video(videos[0], fit)
        raise UserError(
            f"{folder} has {len(images)} images and {len(videos)} videos: it must be either images "
            "or one video"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read(path: Path) -> Array:
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"cannot read the image {path}: {error}") from None
