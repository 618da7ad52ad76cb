"""Teach a decoder to show what latents look like, on frozen latents.

    python -m worldmodel.train_decoder --data data/pusht --checkpoint pusht --picture decoder.png

The decoder is for people's eyes alone: nothing it learns reaches encoder or predictor. It is taught
on encoded frames only, so where a picture of the future is blurred or wrong, the imagination is. On
held-out episodes it prints how like the true frames its pictures are, of latents that were encoded
and of some imagined 1, 2, ... model steps ahead: PSNR, and SSIM (Wang et al. 2004). Beside it is
what the average frame would get, as most of an image never changes. `--picture` draws reality and
imagination one above the other.
"""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from worldmodel.cli import (
    Progress,
    atomic_write_bytes,
    atomic_write_json,
    parse_config,
    progress,
    run,
)
from worldmodel.data.dataset import open_dataset, split
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.models.decoder import Decoder, latents_hash, save_decoder
from worldmodel.models.latents import draw_latent_clips, frames_of, imagine, latents_of

Array = NDArray[Any]
CONSTANTS = (0.01**2, 0.03**2)  # of SSIM


@dataclass(frozen=True)
class TrainDecoderConfig:
    """What to learn from, and for how long.

    Attributes:
        data: folders of the data that the checkpoint learnt from, or of more like it, separated by
            commas.
        checkpoint: bundled name or folder; it gets the decoder.
        frames: frames to learn from.
        steps: optimiser steps.
        batch: frames per step.
        lr: peak learning rate; falls to zero along a cosine. 0: what suits the decoder.
        held_out: share of the episodes that pictures are judged on.
        clips: of held-out episodes, to judge them.
        horizon: model steps imagined in these; 0: the checkpoint's.
        seed: of the draw.
        picture: PNG of some of these clips; empty draws none.
        out: JSON file for the result; empty writes none.
    """

    data: str
    checkpoint: str
    frames: int = 20_000
    steps: int = 2000
    batch: int = 16
    lr: float = 0.0
    held_out: float = 0.05
    clips: int = 500
    horizon: int = 0
    seed: int = 0
    picture: str = ""
    out: str = ""

    def __post_init__(self) -> None:
        for name in ("frames", "steps", "batch", "clips"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("picture", "out"):
            path = Path(getattr(self, name))
            if not path.parent.is_dir():
                raise UserError(f"cannot write {path}: there is no folder {path.parent}")


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity ``[B]`` of images ``[B, 3, H, W]`` from 0 to 1 (Wang et al. 2004), in a
    Gaussian window of 1.5 pixels; the mean over channels and over where the window fits."""
    line = torch.arange(-5.0, 6.0, device=one.device)
    line = torch.exp(-line.square() / (2 * 1.5**2))
    line = (line / line.sum()).expand(15, 1, 1, -1)
    both = torch.cat([one, other, one * one, other * other, one * other], 1)
    both = F.conv2d(F.conv2d(both, line, groups=15), line.transpose(2, 3), groups=15)
    m, n, mm, nn, mn = both.chunk(5, 1)
    (c, d), product = CONSTANTS, m * n
    alike = (2 * product + c) * (2 * (mn - product) + d)
    scale = (m * m + n * n + c) * (mm - m * m + nn - n * n + d)
    return (alike / scale).flatten(1).mean(1)


def psnr(one: Tensor, other: Tensor) -> Tensor:
    """Peak signal-to-noise ratio ``[B]`` in decibels of images ``[B, 3, H, W]`` from 0 to 1."""
    return -10 * (one - other).square().flatten(1).mean(1).clamp_min(1e-10).log10()


def images(pixels: Array) -> Tensor:
    """uint8 ``[B, H, W, 3]`` as float ``[B, 3, H, W]`` from 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).movedim(-1, 1).float() / 255


def fit(decoder: Decoder, z: Tensor, pixels: Array, config: TrainDecoderConfig) -> None:
    """Teach `decoder` what latents ``z [M, P, D]`` of frames ``[M, H, W, 3]`` look like."""
    network = decoder.network
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr or network.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    rng = np.random.default_rng(config.seed)
    bar: Progress[int]
    with progress(range(config.steps), config.steps, "decoder") as bar:
        for _ in bar:
            chosen = rng.integers(len(z), size=config.batch)
            truth = images(pixels[chosen])
            with torch.autocast("cpu", torch.bfloat16):
                seen = network(z[chosen])
            optimizer.zero_grad(set_to_none=True)
            network.loss(seen, truth).backward()
            optimizer.step()
            schedule.step()


def judge(decoder: Decoder, z: Tensor, pixels: Array, average: Tensor) -> list[dict[str, Any]]:
    """How like true frames ``[B, 1 + T, H, W, 3]`` are the pictures of latents
    ``[B, 1 + T, P, D]``, encoded (depth 0) and imagined; and the `average` frame ``[3, H, W]``."""
    rows = []
    for depth in range(z.shape[1]):
        truth = images(pixels[:, depth])
        seen = images(decoder.paint(z[:, depth]))
        flat = average.expand_as(truth)
        rows.append(
            {
                "depth": depth,
                "psnr": float(psnr(seen, truth).mean()),
                "ssim": float(ssim(seen, truth).mean()),
                "ssim_worst_tenth": float(ssim(seen, truth).quantile(0.1)),
                "average_psnr": float(psnr(flat, truth).mean()),
                "average_ssim": float(ssim(flat, truth).mean()),
            }
        )
    return rows


def train_decoder(config: TrainDecoderConfig) -> dict[str, Any]:
    """Train, judge, keep the decoder with its checkpoint; returns what `--out` holds.

    Raises:
        UserError: an unusable checkpoint or dataset, or images that are no squares.
    """
    model, encoder, info = load_checkpoint(config.checkpoint)
    datasets = [open_dataset(path) for path in config.data.split(",") if path]
    horizon = config.horizon or info.horizon
    rng = np.random.default_rng(config.seed)
    pixels, z, truth, found = [], [], [], []
    for data in datasets:
        if data.env_id != info.env_id:
            raise UserError(f"{data.path} is of {data.env_id}, the checkpoint of {info.env_id}")
        train, held_out = split(data, config.held_out)
        frames = rng.permutation(frames_of(data, train))[: config.frames // len(datasets)]
        frames = np.sort(frames)
        pixels.append(data.pixels(frames))
        z.append(latents_of(model, encoder, data, frames))
        count = math.ceil(config.clips / len(datasets))
        clips = draw_latent_clips(model, encoder, data, held_out, count, horizon, rng)
        found.append(imagine(model, clips))
        truth.append(np.stack([data.pixels(moments) for moments in clips.frames.T], 1))

    shown, true = np.concatenate(pixels), np.concatenate(truth)
    side = shown.shape[1]
    if shown.shape[2] != side:
        raise UserError(f"{config.data} has images of {shown.shape[1:3]}: squares are needed")
    torch.manual_seed(config.seed)
    decoder = Decoder(model, side)
    fit(decoder, torch.cat(z), shown, config)
    decoder.eval()
    imagination = torch.cat(found).unflatten(-1, z[0].shape[1:])
    average = images(shown[:: max(1, len(shown) // 1000)]).mean(0)
    result = {
        "checkpoint": config.checkpoint,
        "data": config.data,
        "data_hash": [data.hash for data in datasets],
        "clips": len(true),
        "by_depth": judge(decoder, imagination, true, average),
        "settings": {k: v for k, v in asdict(config).items() if k not in ("out", "picture")},
    }
    save_decoder(config.checkpoint, decoder, latents_hash(model, info.encoder_hash), result)
    if config.picture:
        some = np.linspace(0, len(true) - 1, 4).astype(int)
        atomic_write_bytes(config.picture, draw(true[some], decoder.paint(imagination[some])))
    return result


def draw(truth: Array, seen: Array) -> bytes:
    """A PNG of true frames ``[n, 1 + T, H, W, 3]``, each above its picture."""
    count, depths, side = truth.shape[:3]
    gap, top, left = 6, 16, 62
    size = (left + depths * (side + gap), top + count * (2 * side + 2 * gap))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for depth in range(depths):
        x = left + depth * (side + gap)
        pen.text((x, 2), "now" if depth == 0 else f"{depth} ahead", fill=(40, 40, 40))
        for number in range(count):
            y = top + number * (2 * side + 2 * gap)
            sheet.paste(Image.fromarray(truth[number, depth]), (x, y))
            sheet.paste(Image.fromarray(seen[number, depth]), (x, y + side))
            if depth == 0:
                pen.text((2, y + side // 2), "reality", fill=(40, 40, 40))
                pen.text((2, y + side + side // 2), "imagined", fill=(40, 40, 40))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    rows = [
        f"{result['checkpoint']}: {result['clips']} clips of held-out episodes",
        "",
        "| model steps ahead | SSIM | worst tenth, at most | PSNR | average frame: SSIM | PSNR |",
        "|---" * 6 + "|",
    ]
    for row in result["by_depth"]:
        when = "encoded" if row["depth"] == 0 else row["depth"]
        rows.append(
            f"| {when} | {row['ssim']:.3f} | {row['ssim_worst_tenth']:.3f} | {row['psnr']:.1f} dB "
            f"| {row['average_ssim']:.3f} | {row['average_psnr']:.1f} dB |"
        )
    return "\n".join(rows)


@run
def main(argv: list[str] | None = None) -> None:
    """Train a decoder, print what it is worth."""
    config = parse_config(
        TrainDecoderConfig, argv, "worldmodel.train_decoder", "Teach a decoder to show latents."
    )
    result = train_decoder(config)
    if config.out:
        atomic_write_json(config.out, result)
    print(table(result))
