"""Frames a second and memory of `worldmodel.convert`, from MP4 files of 640 x 480 pixels.

    python tests/bench/bench_convert.py [--episodes 20] [--frames 300]

The source is made first, in the layout of DINO-WM, one video an episode, with moving shapes over
noise. The conversion runs as a process of its own; its memory is the peak of that process.
"""

from __future__ import annotations

import pickle
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch

from worldmodel.cli import parse_config, run


@dataclass(frozen=True)
class BenchConvertConfig:
    """What is converted."""

    episodes: int = 20
    """Number of videos."""
    frames: int = 300
    """Frames of each."""


def write_source(folder: Path, config: BenchConvertConfig) -> None:
    """The source; its content is random, of no world."""
    rng = np.random.default_rng(0)
    ground = rng.integers(100, 140, (480, 640, 3), dtype=np.uint8)
    shape = config.episodes, config.frames
    torch.save(torch.from_numpy(rng.normal(size=(*shape, 4))), folder / "states.pth")
    torch.save(torch.from_numpy(rng.uniform(-1, 1, (*shape, 2))), folder / "actions.pth")
    (folder / "seq_lengths.pkl").write_bytes(pickle.dumps([config.frames] * config.episodes))
    (folder / "obses").mkdir()
    for episode in range(config.episodes):
        with av.open(str(folder / f"obses/episode_{episode:03d}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.height, stream.width, stream.pix_fmt = 480, 640, "yuv420p"
            stream.options = {"preset": "veryfast"}
            for step in range(config.frames):
                image = ground.copy()
                left = 3 * step % 560
                image[100:180, left : left + 80] = (200, 40, 40)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
            container.mux(stream.encode())


@run
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    description = "Time the conversion of videos."
    config = parse_config(BenchConvertConfig, argv, "bench_convert", description)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        write_source(source, config)
        command = [sys.executable, "-m", "worldmodel.convert", str(source)]
        began = time.monotonic()
        subprocess.run([*command, "--out", str(Path(folder) / "out")], check=True)
        seconds = time.monotonic() - began
    frames = config.episodes * config.frames
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"{frames} frames in {seconds:.1f} s: {frames / seconds:.0f} frames/s, peak {peak:.0f} MB"
    )


if __name__ == "__main__":
    sys.exit(main())
