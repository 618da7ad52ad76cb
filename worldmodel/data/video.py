"""Frames of video files, one after another: a video never is in memory as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
from av import VideoFrame, VideoStream
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from worldmodel.data.image_fit import ImageFit
from worldmodel.errors import UserError

Array = NDArray[Any]


def read_video(
    path: Path, fit: ImageFit, start: float = 0.0, count: int | None = None
) -> Iterator[Array]:
    """Frames uint8 ``[S, S, 3]`` of a video.

    Args:
        path: any file that FFmpeg decodes.
        fit: how frames become squares.
        start: seconds from the beginning of the file to the first frame.
        count: number of frames; None: all.

    Raises:
        UserError: the file cannot be read, or ends before `count` frames.
    """
    found, reformatter = 0, VideoReformatter()
    for until, frame in _decoded(path, start):
        if until < start:
            continue
        yield fit.frame(frame, reformatter)
        found += 1
        if found == count:
            return
    if count is not None:
        raise UserError(
            f"{path} has {found} frames from second {start:g} on, and {count} are expected: "
            "it is damaged, or belongs to other data"
        )


def video_frame(path: Path, when: str) -> Array:
    """One frame of a video, uint8 ``[H, W, 3]``.

    Args:
        path: any file that FFmpeg decodes.
        when: seconds from the beginning, as 12.5s: the nearest frame; or the number of a frame, as
            300, from 0 on, at the mean rate of the video.

    Raises:
        UserError: the file cannot be read, or ends before.
    """
    second = float(when[:-1]) if when.endswith("s") else int(when) / _rate(path)
    end = 0.0
    for end, frame in _decoded(path, second):
        if end >= second:
            pixels: Array = frame.to_ndarray(format="rgb24")
            return pixels
    raise UserError(f"{path} has no frame {when}: it ends at {end:.2f}s")


def _decoded(path: Path, start: float) -> Iterator[tuple[float, VideoFrame]]:
    """Frames from the keyframe before second `start` on, each with the second until which it is
    the nearest."""
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        base = stream.time_base
        assert base is not None
        begin, half = stream.start_time or 0, 0.5 / float(stream.average_rate or 30)
        if start:
            container.seek(begin + round(start / base), stream=stream)
        for frame in container.decode(stream):
            second = start if frame.pts is None else float((frame.pts - begin) * base)
            yield second + half, frame


def _rate(path: Path) -> float:
    """Mean frames a second."""
    with _opened(path) as (_, stream):
        if not stream.average_rate:
            raise UserError(f"{path} has no frame rate: give seconds, as {path}@12.5s")
        return float(stream.average_rate)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """An open file and its first video stream."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} holds no video")
            yield container, container.streams.video[0]
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"cannot read the video {path}: {error}") from None
