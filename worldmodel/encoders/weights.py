"""Weights files of encoders."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from worldmodel.encoders.vit import ViTConfig
from worldmodel.errors import UserError

BUNDLED_FOLDER = Path(__file__).parents[1] / "checkpoints"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or .pth file.

    Raises:
        UserError: it is missing, damaged, or holds other objects.
    """
    if not path.is_file():
        raise UserError(
            f"no weights file at {str(path)!r}; give a .safetensors or .pth file, or train one: "
            "python -m worldmodel.pretrain"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("state_dict", "model", "teacher"):
            if isinstance(state, dict) and isinstance(state.get(key), dict):
                state = state[key]
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("it is not a dict of tensors")
    except (
        safetensors.SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        ValueError,
        AttributeError,
        EOFError,
        OSError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot read weights from {str(path)!r}: {reason}. Is it complete, and a state dict?"
        ) from None
    return state


def read_vit_config(path: Path) -> ViTConfig:
    """The ViT that a ``config.json`` beside the weights describes.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        values = json.loads(path.read_text())["vit"]
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return ViTConfig(**values)
    except FileNotFoundError:
        raise UserError(f"no {str(path)!r}: it belongs beside the weights.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{str(path)!r} does not describe a ViT: {error!r}") from None


def load_weights(module: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Load a state dict; `name` is what it is called in the error.

    Raises:
        UserError: the tensors have other names or shapes.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        # PyTorch lists every key; the first difference is enough.
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(f"{name} do not fit: {' '.join(lines[1:2])[:300]}") from None
