"""Frames of video files, one after another: a video never is in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
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
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} holds no video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            base = stream.time_base
            assert base is not None
            first = (stream.start_time or 0) + round(start / base)
            half = 0.5 / float(stream.average_rate or 30) / float(base)
            if start:
                container.seek(first, stream=stream)  # to the keyframe before
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts < first - half:
                    continue
                yield fit.frame(frame, reformatter)
                found += 1
                if found == count:
                    return
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"cannot read the video {path}: {error}") from None
    if count is not None:
        raise UserError(
            f"{path} has {found} frames from second {start:g} on, and {count} are expected: "
            "it is damaged, or belongs to other data"
        )
