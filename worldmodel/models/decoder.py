"""Decoders of latents to images, for people to look at. Planning and training never use them.

    model, _, info = load_checkpoint("pusht")
    decoder = load_decoder("pusht", model, info)
    image = decoder.paint(z)  # uint8 [..., H, W, 3]

Each representation has its own kind of decoder; `worldmodel.train_decoder` trains it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from worldmodel.cli import atomic_write_bytes
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import CheckpointInfo
from worldmodel.models.findings import DECODER, finding_path, writable_path
from worldmodel.models.world_model import WorldModel

Array = NDArray[Any]


class Decoder(nn.Module):
    """Latents of a world model to square images of `side` pixels."""

    def __init__(self, model: WorldModel, side: int):
        super().__init__()
        self.side = side
        self.network = model.representation.decoder(side)

    def forward(self, z: Tensor) -> Tensor:
        """Images ``[..., 3, H, W]``, roughly from 0 to 1, of latents ``[..., P, D]``."""
        image: Tensor = self.network(z.reshape(-1, *z.shape[-2:]))
        return image.reshape(*z.shape[:-2], *image.shape[1:])

    @torch.no_grad()
    def paint(self, z: Tensor) -> Array:
        """The same as uint8 ``[..., H, W, 3]``."""
        images = self(z.to(next(self.parameters()).device)).movedim(-3, -1).clamp(0, 1)
        painted: Array = (255 * images).round().to(torch.uint8).cpu().numpy()
        return painted


def latents_hash(model: WorldModel, encoder_hash: str) -> str:
    """A hash of what determines latents: the encoder and the representation."""
    digest = hashlib.sha256(encoder_hash.encode())
    for name, tensor in sorted(model.representation.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().bfloat16().float().numpy().tobytes())
    return digest.hexdigest()


def save_decoder(
    name_or_path: str | Path, decoder: Decoder, key: str, trained: dict[str, Any]
) -> Path:
    """Write `decoder` beside a checkpoint; returns the path of the file.

    Args:
        name_or_path: of the checkpoint.
        decoder: trained.
        key: `latents_hash` of the latents it decodes.
        trained: result of its training, stored in the file.

    Raises:
        UserError: no such checkpoint, or the file cannot be written.
    """
    path = writable_path(name_or_path, DECODER)
    weights = {name: t.detach().cpu().bfloat16() for name, t in decoder.state_dict().items()}
    header = {"latents": key, "side": str(decoder.side), "trained": json.dumps(trained)}
    atomic_write_bytes(path, to_safetensors(weights, header))
    return path


def how_trained(name_or_path: str | Path) -> dict[str, Any] | None:
    """The training result stored with a checkpoint's decoder; None if it has no decoder.

    Raises:
        UserError: no such checkpoint, or the file is damaged.
    """
    path = finding_path(name_or_path, DECODER)
    if path is None:
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
    """The decoder of a checkpoint, on the model's device; None if it has none.

    Args:
        name_or_path: of the checkpoint.
        model, info: as `load_checkpoint` returns them.

    Raises:
        UserError: no such checkpoint, or the decoder is damaged or was trained for other latents.
    """
    path = finding_path(name_or_path, DECODER)
    if path is None:
        return None
    again = f"run python -m worldmodel.train_decoder --checkpoint {name_or_path} --data ... again"
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name).float() for name in file.keys()}
        decoder = Decoder(model, int(header["side"]))
        if header["latents"] != latents_hash(model, info.encoder_hash):
            raise UserError(f"{path} was trained for other latents than this checkpoint's: {again}")
        decoder.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is damaged or does not fit ({error}): {again}") from None
    return decoder.to(model.action_low.device).eval().requires_grad_(False)
