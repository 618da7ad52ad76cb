"""Training of a decoder on frozen latents.

A decoder is for people to look at: neither encoder nor predictor learns anything from it. It is
trained on encoded frames only, so a blurred or wrong picture of the future shows an error of the
predictions. On held-out episodes, PSNR and SSIM (Wang et al. 2004) compare its pictures with the
recorded frames, for encoded latents and for predictions 1, 2, ... model steps ahead. The baseline
is the average frame, as most of an image never changes.
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

from worldmodel.cli import Progress, atomic_write_bytes, progress
from worldmodel.cli.device import autocast, pick_device
from worldmodel.data.dataset import open_dataset, split
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import load_checkpoint
from worldmodel.models.decoder import Decoder, latents_hash, save_decoder
from worldmodel.models.latents import draw_latent_clips, frames_of, imagine, latents_of

Array = NDArray[Any]
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # of the Gaussian window, pixels
SSIM_CONSTANTS = (0.01**2, 0.03**2)


@dataclass(frozen=True)
class TrainDecoderConfig:
    """One training run of a decoder.

    Attributes:
        data: folders of the checkpoint's training data, or of similar data, separated by commas.
        checkpoint: bundled name, folder or hf:USER/NAME; the decoder is stored with it.
        frames: frames to train on.
        steps: optimiser steps.
        batch: frames per step.
        lr: peak learning rate, which falls to zero along a cosine. 0: the decoder's default.
        held_out: share of the episodes that pictures are compared on.
        clips: held-out clips to compare.
        horizon: model steps predicted in these clips; 0: the checkpoint's.
        seed: of initialisation and sampling.
        device: auto, cpu, cuda or mps.
        picture: PNG of four of these clips; empty: none.
        out: JSON file for the result; empty: none.
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
    device: str = "auto"
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


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """Structural similarity ``[B]`` of images ``[B, 3, H, W]`` in [0, 1]: the mean over all pixels
    around which the window fits.

    torchmetrics is slower, and off by 3e-4 in float32 because it does not separate the window.
    """
    window = torch.arange(-SSIM_RADIUS, SSIM_RADIUS + 1.0, device=images.device)
    window = torch.exp(-window.square() / (2 * SSIM_SIGMA**2))
    window = (window / window.sum()).expand(15, 1, 1, -1)
    moments = torch.cat([images, others, images**2, others**2, images * others], 1)
    moments = F.conv2d(F.conv2d(moments, window, groups=15), window.transpose(2, 3), groups=15)
    x, y, xx, yy, xy = moments.chunk(5, 1)
    c1, c2 = SSIM_CONSTANTS
    similarity = (2 * x * y + c1) * (2 * (xy - x * y) + c2)
    scale = (x * x + y * y + c1) * (xx - x * x + yy - y * y + c2)
    return (similarity / scale).flatten(1).mean(1)


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio ``[B]``, dB, at most 100, of images ``[B, 3, H, W]`` in [0, 1]."""
    return -10 * (images - others).square().flatten(1).mean(1).clamp_min(1e-10).log10()


def as_tensor(pixels: Array) -> Tensor:
    """uint8 ``[B, H, W, 3]`` as float ``[B, 3, H, W]`` in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).movedim(-1, 1).float() / 255


def fit(decoder: Decoder, z: Tensor, pixels: Array, config: TrainDecoderConfig) -> None:
    """Train `decoder` on latents ``z [M, P, D]`` of frames ``[M, H, W, 3]``."""
    network = decoder.network
    device = next(network.parameters()).device
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr or network.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    rng = np.random.default_rng(config.seed)
    bar: Progress[int]
    with progress(range(config.steps), config.steps, "decoder") as bar:
        for _ in bar:
            chosen = rng.integers(len(z), size=config.batch)
            target = as_tensor(pixels[chosen]).to(device)
            with autocast(device):
                painted = network(z[chosen].to(device))
            optimizer.zero_grad(set_to_none=True)
            network.loss(painted, target).backward()
            optimizer.step()
            schedule.step()


def compare(decoder: Decoder, z: Tensor, pixels: Array, average: Tensor) -> list[dict[str, Any]]:
    """Similarity of painted latents and recorded frames, by the number of predicted steps.

    Args:
        decoder: trained.
        z: encoded latents, then predicted ones, ``[B, 1 + T, P, D]``.
        pixels: the recorded frames ``[B, 1 + T, H, W, 3]``.
        average: the average frame ``[3, H, W]``.
    """
    rows = []
    for depth in range(z.shape[1]):
        target = as_tensor(pixels[:, depth])
        painted = as_tensor(decoder.paint(z[:, depth]))
        baseline = average.expand_as(target)
        similarity = ssim(painted, target)
        rows.append(
            {
                "depth": depth,
                "psnr": float(psnr(painted, target).mean()),
                "ssim": float(similarity.mean()),
                "ssim_worst_tenth": float(similarity.quantile(0.1)),
                "average_psnr": float(psnr(baseline, target).mean()),
                "average_ssim": float(ssim(baseline, target).mean()),
            }
        )
    return rows


def train_decoder(config: TrainDecoderConfig) -> dict[str, Any]:
    """Train a decoder, compare its pictures, and store it with its checkpoint.

    Raises:
        UserError: an unusable checkpoint or dataset, or images that are not square.
    """
    device = pick_device(config.device)
    model, encoder, info = load_checkpoint(config.checkpoint, device=device)
    datasets = [open_dataset(path) for path in config.data.split(",") if path]
    horizon = config.horizon or info.horizon
    rng = np.random.default_rng(config.seed)
    pixels, z, recorded, predicted = [], [], [], []
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
        predicted.append(imagine(model, clips))
        recorded.append(np.stack([data.pixels(moments) for moments in clips.frames.T], 1))

    images, targets = np.concatenate(pixels), np.concatenate(recorded)
    side = images.shape[1]
    if images.shape[2] != side:
        raise UserError(f"{config.data} has images of {images.shape[1:3]}: a decoder needs squares")
    torch.manual_seed(config.seed)
    decoder = Decoder(model, side).to(device)
    fit(decoder, torch.cat(z), images, config)
    decoder.eval()
    futures = torch.cat(predicted).unflatten(-1, z[0].shape[1:])
    average = as_tensor(images[:: max(1, len(images) // 1000)]).mean(0)
    result = {
        "checkpoint": config.checkpoint,
        "data": config.data,
        "data_hash": [data.hash for data in datasets],
        "clips": len(targets),
        "by_depth": compare(decoder, futures, targets, average),
        "settings": {k: v for k, v in asdict(config).items() if k not in ("out", "picture")},
    }
    save_decoder(config.checkpoint, decoder, latents_hash(model, info.encoder_hash), result)
    if config.picture:
        some = np.linspace(0, len(targets) - 1, 4).astype(int)
        atomic_write_bytes(
            config.picture, contact_sheet(targets[some], decoder.paint(futures[some]))
        )
    return result


def contact_sheet(recorded: Array, painted: Array) -> bytes:
    """A PNG of recorded frames ``[n, 1 + T, H, W, 3]``, each above its painted counterpart."""
    count, depths, side = recorded.shape[:3]
    gap, top, left = 6, 16, 62
    size = (left + depths * (side + gap), top + count * (2 * side + 2 * gap))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for depth in range(depths):
        x = left + depth * (side + gap)
        pen.text((x, 2), "now" if depth == 0 else f"{depth} ahead", fill=(40, 40, 40))
        for number in range(count):
            y = top + number * (2 * side + 2 * gap)
            sheet.paste(Image.fromarray(recorded[number, depth]), (x, y))
            sheet.paste(Image.fromarray(painted[number, depth]), (x, y + side))
            if depth == 0:
                pen.text((2, y + side // 2), "recorded", fill=(40, 40, 40))
                pen.text((2, y + side + side // 2), "predicted", fill=(40, 40, 40))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def similarity_table(result: dict[str, Any]) -> str:
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
