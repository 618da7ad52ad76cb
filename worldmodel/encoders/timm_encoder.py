"""DINO, DINOv2 and DINOv3 from timm."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch

from worldmodel.encoders.vit import OWN
from worldmodel.encoders.weights import load_weights, read_weights
from worldmodel.errors import UserError


def load_timm(name: str, weights: str | Path | None, pretrained: bool) -> Any:
    """A ViT of timm, without its head; the arguments are those of `load_encoder`.

    Raises:
        UserError: an unknown name, unusable weights, or no network.
    """
    import timm  # slow to import: not needed for the project's own encoder

    known = [m for m in timm.list_pretrained("*dino*") if m.startswith("vit_")]
    if name not in known and name not in {m.partition(".")[0] for m in known}:
        near = difflib.get_close_matches(name, [*OWN, *known], 3, 0.5) or [*OWN, *known[:1]]
        raise UserError(
            f"unknown encoder {name!r}; nearest: {', '.join(near)}. An encoder is ibot-112, "
            "random-112, or the timm name of a DINO, DINOv2 or DINOv3 ViT."
        )
    state = read_weights(Path(weights)) if weights is not None else None
    download = pretrained and state is None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            backbone: Any = timm.create_model(
                name, pretrained=download, num_classes=0, dynamic_img_size=True
            )
        except Exception as error:  # the hub's clients raise many kinds
            if not download:
                raise
            reason = str(error).splitlines()[0] if str(error) else "no message"
            raise UserError(
                f"cannot download the weights of {name} ({type(error).__name__}: {reason}). "
                "HF_ENDPOINT names a mirror, HF_HOME the folder of earlier downloads. Or give a "
                "local file: --encoder_weights PATH, in Python weights=PATH."
            ) from None
    if state is not None:
        load_weights(backbone, state, f"weights for {name} in {str(weights)!r}")
    return backbone
