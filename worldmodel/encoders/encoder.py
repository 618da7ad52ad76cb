"""Frozen encoders: images to patch tokens.

``load_encoder("ibot-112")`` needs no download: its weights are part of the package. DINO, DINOv2
and DINOv3 come from timm under their timm names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.cli.device import has_bfloat16
from worldmodel.encoders.timm_encoder import load_timm
from worldmodel.encoders.vit import OWN, ViT, ViTConfig
from worldmodel.encoders.weights import (
    BUNDLED_FOLDER,
    load_weights,
    read_vit_config,
    read_weights,
)
from worldmodel.errors import UserError


class Encoder(nn.Module):
    """A frozen encoder: uint8 images in, float32 patch tokens out.

    Attributes:
        name: what it was loaded as.
        image_size: side that images are resized to, pixels.
        num_tokens: patch tokens per image, P.
        dim: width of a token, D.
        hash: hex digest of weights and preprocessing; equal hashes give equal latents.
        autocast: whether it computes in bfloat16 where the device has it; else in the precision of
            its weights.
    """

    mean: Tensor
    std: Tensor
    autocast = True

    def __init__(
        self,
        name: str,
        backbone: nn.Module,
        tokens: Callable[[Tensor], Tensor],
        image_size: int,
        patch_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        """`tokens`: a function from normalised pixels [B, 3, S, S] to patch tokens [B, P, D]."""
        super().__init__()
        if image_size < patch_size or image_size % patch_size:
            near = max(1, round(image_size / patch_size)) * patch_size
            raise UserError(
                f"image_size is {image_size}; {name} cuts patches of {patch_size} pixels, "
                f"so use a multiple of that, such as {near}."
            )
        self.name = name
        self.backbone = backbone
        self._tokens = tokens
        self.image_size = image_size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()
        self.num_tokens, self.dim = self.encode(np.zeros((1, 16, 16, 3), np.uint8)).shape[1:]
        self.hash = self._digest()

    def train(self, mode: bool = True) -> Encoder:
        """Stay in evaluation mode, also as part of a model that is trained."""
        del mode
        return super().train(False)

    def encode(self, pixels: Tensor | np.ndarray, batch: int = 64) -> Tensor:
        """Encode images.

        Args:
            pixels: uint8 [B, H, W, 3]. Other sizes are resized, antialiased, to a square.
            batch: images per forward pass, which bounds the memory.

        Returns:
            Patch tokens, float32 [B, P, D], row by row from the top left, on the encoder's device.

        Raises:
            UserError: `pixels` has another type or shape.
        """
        images = torch.as_tensor(pixels)
        if images.dtype != torch.uint8:
            raise UserError(
                f"pixels are {str(images.dtype).removeprefix('torch.')}; the encoder takes uint8 "
                "from 0 to 255."
            )
        if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape[1:]:
            hint = " Add a batch dimension: pixels[None]." if images.ndim == 3 else ""
            raise UserError(
                f"pixels have shape {list(images.shape)}; the encoder takes [B, H, W, 3].{hint}"
            )
        if len(images) == 0:
            return torch.zeros(0, self.num_tokens, self.dim, device=self.mean.device)
        with torch.no_grad():
            return torch.cat([self(part) for part in images.split(batch)])

    def forward(self, images: Tensor) -> Tensor:
        """`encode` for one valid batch."""
        device = self.mean.device
        x = images.to(device).permute(0, 3, 1, 2).float()
        size = (self.image_size, self.image_size)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        x = (x / 255.0 - self.mean) / self.std
        bfloat16 = self.autocast and has_bfloat16(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            return self._tokens(x).float()

    def _digest(self) -> str:
        how = {
            "image_size": self.image_size,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "version": 1,
        }
        digest = hashlib.sha256(json.dumps(how).encode())
        for key, value in sorted(self.backbone.state_dict().items()):
            digest.update(f"{key} {list(value.shape)}".encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def load_encoder(
    name: str = "ibot-112",
    weights: str | Path | None = None,
    image_size: int | None = None,
    pretrained: bool = True,
) -> Encoder:
    """Load a frozen encoder.

    Args:
        name: "ibot-112", the project's own; "dino-112", an earlier one, which the checkpoints
            of special representations need; "random-112", the same network with random weights,
            the baseline of features; or the timm name of a ViT of the DINO, DINOv2 or DINOv3
            family, such as "vit_small_patch14_dinov2.lvd142m".
        weights: local file in place of the bundled or downloaded weights: .safetensors or .pth. For
            "ibot-112" also the folder that pretraining exports, with `config.json` beside the
            weights.
        image_size: side that images are resized to, a multiple of the patch size. Default: 112 for
            the project's own, 14 patches for the others.
        pretrained: False leaves the weights random (seeded), unless `weights` are given.

    Raises:
        UserError: an unknown name, unusable weights, a size that does not fit, no network.
    """
    if name in OWN:
        return _load_own(name, weights, image_size, pretrained)
    return _load_timm(name, weights, image_size, pretrained)


def _load_own(
    name: str, weights: str | Path | None, image_size: int | None, pretrained: bool
) -> Encoder:
    if name == "random-112" and weights is not None:
        raise UserError(f"random-112 takes no weights, but weights is {str(weights)!r}.")
    if weights is None and (name == "random-112" or not pretrained):
        config, state = ViTConfig(), None
    else:
        path = Path(weights) if weights is not None else BUNDLED_FOLDER / name
        file = path / "model.safetensors" if path.is_dir() or weights is None else path
        state = read_weights(file)
        config = read_vit_config(file.with_name("config.json"))
    with torch.random.fork_rng(devices=[]):
        vit = ViT(config)
    if state is not None:
        load_weights(vit, state, f"{name} weights")
    else:
        _randomise(vit)
    return Encoder(
        name,
        vit,
        lambda x: vit(x)[:, 1:],
        image_size or config.image_size,
        config.patch_size,
        config.mean,
        config.std,
    )


def _randomise(vit: ViT) -> None:
    """The ViT's own initial distribution, drawn by NumPy: PyTorch's differs between versions."""
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in vit.parameters():
            if parameter.ndim >= 2:
                numbers = rng.normal(0.0, 0.02, parameter.shape)
                parameter.copy_(torch.from_numpy(numbers.astype(np.float32)))


def _load_timm(
    name: str, weights: str | Path | None, image_size: int | None, pretrained: bool
) -> Encoder:
    backbone = load_timm(name, weights, pretrained)
    patch_size = int(backbone.patch_embed.patch_size[0])
    prefix = int(backbone.num_prefix_tokens)
    return Encoder(
        name,
        backbone,
        lambda x: backbone.forward_features(x)[:, prefix:],
        image_size or 14 * patch_size,
        patch_size,
        backbone.pretrained_cfg["mean"],
        backbone.pretrained_cfg["std"],
    )
