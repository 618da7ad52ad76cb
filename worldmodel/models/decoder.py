"""What latents look like: pictures for people. No planner sees them, nothing is learnt from them.

    model, _, info = load_checkpoint("pusht")
    decoder = load_decoder("pusht", model, info)
    picture = decoder.paint(z)  # uint8 [..., H, W, 3]

A pose is painted as a scene of three pictures (`Scene`); anything else by convolutions (`Patches`).
`worldmodel.train_decoder` teaches both.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from worldmodel.cli import atomic_write_bytes
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import CheckpointInfo, find_checkpoint
from worldmodel.models.world_model import Pose, WorldModel, turned

Array = NDArray[Any]
FILE = "decoder.safetensors"


class Scene(nn.Module):
    """A pose ``[B, 1, 6]`` as an image: the ground, the thing on it where and as it is turned, and
    the robot above both. What it learns are these three pictures, the latter two with how opaque
    they are."""

    REACH = 0.7  # of the two pictures, to each side, in half images
    RATE = 0.03  # of learning

    grid: Tensor

    def __init__(self, side: int):
        super().__init__()
        self.ground = nn.Parameter(torch.full((3, side, side), 0.5))
        cells = math.ceil(self.REACH * side)  # as fine as the image
        self.thing = nn.Parameter(torch.full((4, cells, cells), 0.5))
        self.robot = nn.Parameter(torch.full((4, cells, cells), 0.5))
        centres = (torch.arange(side) + 0.5) * 2 / side - 1
        grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)
        self.register_buffer("grid", grid, persistent=False)  # x, y of pixels, in half images

    def forward(self, z: Tensor) -> Tensor:
        place, turn, robot = z[:, 0].float().split(2, -1)
        facing = F.normalize(turn, dim=-1, eps=1e-3)
        upright = torch.tensor([1.0, 0.0]).to(facing).expand_as(facing)
        image = self.ground.expand(len(z), -1, -1, -1)
        for sprite, at, turning in ((self.thing, place, facing), (self.robot, robot, upright)):
            image = self._over(image, sprite, at / Pose.SPREAD, turning)
        return image

    def loss(self, image: Tensor, truth: Tensor) -> Tensor:
        """Absolute errors, which make edges sharp; and nothing is opaque that need not be."""
        sprites = torch.stack([self.thing, self.robot], 1)
        return (image - truth).abs().mean() + 1e-3 * self.opacity(sprites).mean()

    @staticmethod
    def opacity(sprite: Tensor) -> Tensor:
        """Of a picture ``[4, h, w]``, ``[1, h, w]``: at first, it can hardly be seen."""
        return (8 * sprite[3:] - 6).sigmoid()

    def _over(self, image: Tensor, sprite: Tensor, at: Tensor, facing: Tensor) -> Tensor:
        back = facing * facing.new_tensor([1.0, -1.0])
        seen = turned(self.grid - at[:, None, None], back[:, None, None]) / self.REACH
        # Colours are weighted by opacity before they are interpolated, so that none bleed in.
        opacity = self.opacity(sprite)
        weighted = torch.cat([sprite[:3] * opacity, opacity])
        there = F.grid_sample(weighted.expand(len(at), -1, -1, -1), seen, align_corners=False)
        return image * (1 - there[:, 3:]) + there[:, :3]


class Patches(nn.Module):
    """Latents ``[B, P, D]`` as an image, by convolutions, from a square of patches: the latents
    themselves if there are so many, or as many as fit what they say together."""

    RATE = 0.003  # of learning

    def __init__(self, tokens: int, dim: int, side: int, width: int = 128):
        super().__init__()
        self.cells = math.isqrt(tokens)
        self.spread = None
        if tokens < 16 or self.cells**2 != tokens or side % self.cells:
            self.cells = next(n for n in (8, 7, 6, 5, 4, 3, 2, 1) if side % n == 0)
            self.spread = nn.Sequential(
                nn.Linear(tokens * dim, 512), nn.GELU(), nn.Linear(512, self.cells**2 * width)
            )
            dim = width
        factor = side // self.cells
        fine = 2 if factor % 2 == 0 else 1  # the last doubling is smoothed by one more convolution
        coarse = factor // fine
        self.around = nn.Sequential(
            nn.Conv2d(dim, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 24 * coarse**2, 1),
            nn.PixelShuffle(coarse),
            nn.GELU(),
            nn.Conv2d(24, 24, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(24, 12 * fine**2, 3, padding=1),
            nn.PixelShuffle(fine),
            nn.GELU(),
            nn.Conv2d(12, 3, 3, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        z = z.flatten(1) if self.spread is None else self.spread(z.flatten(1))
        cells = z.unflatten(1, (self.cells**2, -1)).transpose(1, 2)
        image = self.around(cells.unflatten(-1, (self.cells, self.cells)))
        return image.float()

    def loss(self, image: Tensor, truth: Tensor) -> Tensor:
        """Squared errors, which keep what is small and seldom anywhere, such as a ball, from
        vanishing."""
        return (image - truth).square().mean()


class Decoder(nn.Module):
    """Latents of a world model as images of `side` pixels, square as its encoder's are."""

    def __init__(self, model: WorldModel, side: int):
        super().__init__()
        c = model.config
        self.side = side
        self.painter: Scene | Patches = (
            Scene(side) if isinstance(model.projector, Pose) else Patches(c.tokens, c.dim, side)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Images ``[..., 3, H, W]``, about from 0 to 1, of latents ``[..., P, D]``."""
        image: Tensor = self.painter(z.reshape(-1, *z.shape[-2:]))
        return image.reshape(*z.shape[:-2], *image.shape[1:])

    @torch.no_grad()
    def paint(self, z: Tensor) -> Array:
        """The same as uint8 ``[..., H, W, 3]``."""
        images = self(z.to(next(self.parameters()).device)).movedim(-3, -1).clamp(0, 1)
        painted: Array = (255 * images).round().to(torch.uint8).cpu().numpy()
        return painted


def latents_hash(model: WorldModel, encoder_hash: str) -> str:
    """What the meaning of latents depends on: the encoder and the projector."""
    digest = hashlib.sha256(encoder_hash.encode())
    for name, tensor in sorted(model.projector.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().bfloat16().float().numpy().tobytes())
    return digest.hexdigest()


def save_decoder(
    name_or_path: str | Path, decoder: Decoder, key: str, trained: dict[str, Any]
) -> Path:
    """Keep `decoder` with a checkpoint, for latents of the hash `key`, and what was `trained` how.

    Raises:
        UserError: it cannot be written.
    """
    path = find_checkpoint(name_or_path) / FILE
    weights = {name: t.detach().cpu().bfloat16() for name, t in decoder.state_dict().items()}
    note = {"latents": key, "side": str(decoder.side), "trained": json.dumps(trained)}
    atomic_write_bytes(path, to_safetensors(weights, note))
    return path


def how_trained(name_or_path: str | Path) -> dict[str, Any] | None:
    """What `worldmodel.train_decoder` found of the decoder of a checkpoint, None where it has none.

    Raises:
        UserError: no such checkpoint, or the file is damaged.
    """
    path = find_checkpoint(name_or_path) / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            found: dict[str, Any] = json.loads((file.metadata() or {})["trained"])
            return found
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): train the decoder again") from None


def load_decoder(
    name_or_path: str | Path, model: WorldModel, info: CheckpointInfo
) -> Decoder | None:
    """The decoder of a checkpoint, whose `model` and `info` were loaded, or None where it has none.

    Raises:
        UserError: no such checkpoint, or a decoder that is damaged or of other latents.
    """
    path = find_checkpoint(name_or_path) / FILE
    if not path.exists():
        return None
    again = f"run python -m worldmodel.train_decoder --checkpoint {name_or_path} --data ... again"
    try:
        with safe_open(path, "pt") as file:
            note = file.metadata() or {}
            weights = {name: file.get_tensor(name).float() for name in file.keys()}
        decoder = Decoder(model, int(note["side"]))
        if note["latents"] != latents_hash(model, info.encoder_hash):
            raise UserError(f"{path} was trained for other latents than this checkpoint's: {again}")
        decoder.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is damaged or does not fit ({error}): {again}") from None
    return decoder.eval().requires_grad_(False)
