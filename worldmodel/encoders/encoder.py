"""Pixels to patch latents: the project's own small ViT, and frozen encoders by name.

``load_encoder("dino-112")`` needs no download: its weights ship with the package. DINO, DINOv2 and
DINOv3 come from timm by their timm name.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from worldmodel.errors import UserError

BUNDLED = Path(__file__).parents[1] / "checkpoints" / "dino-112"
OWN = ("dino-112", "random-112")


@dataclass(frozen=True)
class ViTConfig:
    """Shape of the project's own ViT and the pixel statistics it was trained with.

    Attributes:
        image_size: side of the square input, pixels.
        patch_size: side of a patch, pixels; divides `image_size`.
        dim: width of a token.
        depth: transformer blocks.
        heads: attention heads; divides `dim`.
        mean: per channel, of pixels scaled to [0, 1].
        std: per channel, of pixels scaled to [0, 1].
    """

    image_size: int = 112
    patch_size: int = 14
    dim: int = 192
    depth: int = 6
    heads: int = 3
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        for whole, part in (("image_size", "patch_size"), ("dim", "heads")):
            a, b = getattr(self, whole), getattr(self, part)
            if b < 1 or a < 1 or a % b:
                raise UserError(f"{whole} is {a}; it must be a positive multiple of {part}, {b}.")


def patchify(pixels: Tensor, patch_size: int) -> Tensor:
    """Cut images [B, 3, H, W] into flat patches [B, P, 3 * patch_size ** 2], row by row."""
    b, c, h, w = pixels.shape
    p = patch_size
    x = pixels.reshape(b, c, h // p, p, w // p, p)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // p) * (w // p), c * p * p)


class Block(nn.Module):
    """One pre-norm transformer block with fused query, key, value."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Plain products: for so few tokens, several times faster in bf16 on a CPU, forwards and
        # backwards, than PyTorch's fused attention.
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1).to(v.dtype)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(b, n, d))
        return x + self.fc2(F.relu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """A small vision transformer: a class token and one token per patch.

    The learned positions are interpolated to the input's patch grid, so that the small crops of
    self-distillation go through the same weights.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = config.image_size // config.patch_size
        self.patch = nn.Linear(3 * config.patch_size**2, config.dim)
        self.cls = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.mask = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos = nn.Parameter(torch.zeros(1, self.grid**2, config.dim))
        self.blocks = nn.ModuleList(Block(config.dim, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)
        for parameter in (self.cls, self.mask, self.pos):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def positions(self, grid: int) -> Tensor:
        """Learned positions [1, grid ** 2, dim], resampled when `grid` is not the trained one."""
        if grid == self.grid:
            return self.pos
        square = self.pos.view(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        square = F.interpolate(square, (grid, grid), mode="bilinear", antialias=True)
        return square.flatten(2).transpose(1, 2)

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode normalised pixels.

        Args:
            pixels: float [B, 3, H, W], normalised with the configuration's mean and std.
            mask: bool [B, P]; True hides the patch behind the learned mask token.

        Returns:
            Tokens [B, 1 + P, dim] after the last norm, the class token first.
        """
        x = self.patch(patchify(pixels, self.config.patch_size))
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.mask.to(x.dtype), x)
        x = x + self.positions(pixels.shape[-1] // self.config.patch_size).to(x.dtype)
        x = torch.cat([self.cls.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Encoder(nn.Module):
    """A frozen encoder: uint8 images in, float32 patch tokens out.

    Attributes:
        name: what it was loaded as.
        image_size: side that images are resized to, pixels.
        num_tokens: patch tokens per image, P.
        dim: width of a token, D.
        hash: hex digest of weights and preprocessing; equal hashes give equal latents.
        autocast: whether it computes in bfloat16; else in the precision of its weights.
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
        """Args: tokens: normalised pixels [B, 3, S, S] to patch tokens [B, P, D]."""
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
        """Stays in evaluation mode, also as part of a model that is trained."""
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
        """The same for one batch that is known to be right."""
        x = images.to(self.mean.device).permute(0, 3, 1, 2).float()
        size = (self.image_size, self.image_size)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        x = (x / 255.0 - self.mean) / self.std
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
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
            digest.update(value.detach().float().contiguous().numpy().tobytes())
        return digest.hexdigest()


def load_encoder(
    name: str = "dino-112",
    weights: str | Path | None = None,
    image_size: int | None = None,
    pretrained: bool = True,
) -> Encoder:
    """Load a frozen encoder.

    Args:
        name: "dino-112", the project's own; "random-112", the same at its initialisation, the floor
            that features must beat; or the timm name of a ViT of the DINO, DINOv2 or DINOv3 family,
            such as "vit_small_patch14_dinov2.lvd142m".
        weights: local file instead of what ships or is downloaded: .safetensors or .pth. For
            "dino-112" also the folder that pretraining exports, `config.json` beside the weights.
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
        path = Path(weights) if weights is not None else BUNDLED
        file = path / "model.safetensors" if path.is_dir() or weights is None else path
        state = _read_weights(file)
        config = _read_config(file.with_name("config.json"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = ViT(config)
    if state is not None:
        _fill(vit, state, f"{name} weights")
    return Encoder(
        name,
        vit,
        lambda x: vit(x)[:, 1:],
        image_size or config.image_size,
        config.patch_size,
        config.mean,
        config.std,
    )


def _load_timm(
    name: str, weights: str | Path | None, image_size: int | None, pretrained: bool
) -> Encoder:
    import timm  # here, because it takes longer to import than the project's own encoder to load

    known = [m for m in timm.list_pretrained("*dino*") if m.startswith("vit_")]
    if name not in known and name not in {m.partition(".")[0] for m in known}:
        near = difflib.get_close_matches(name, [*OWN, *known], 3, 0.5) or [*OWN, *known[:1]]
        raise UserError(
            f"unknown encoder {name!r}; nearest: {', '.join(near)}. An encoder is dino-112, "
            "random-112, or the timm name of a DINO, DINOv2 or DINOv3 ViT."
        )
    state = _read_weights(Path(weights)) if weights is not None else None
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
            raise UserError(
                f"cannot download the weights of {name} ({type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else 'no message'}). Without network, "
                "give a local file: weights=PATH."
            ) from None
    if state is not None:
        _fill(backbone, state, f"weights for {name} in {str(weights)!r}")
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


def _read_weights(path: Path) -> dict[str, Tensor]:
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
            raise ValueError("it holds more than named tensors")
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
            f"cannot read weights from {str(path)!r}: {reason}. Is it whole, and a state dict?"
        ) from None
    return state


def _read_config(path: Path) -> ViTConfig:
    try:
        values = json.loads(path.read_text())["vit"]
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return ViTConfig(**values)
    except FileNotFoundError:
        raise UserError(f"no {str(path)!r}: it belongs beside the weights.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{str(path)!r} does not describe a ViT: {error!r}") from None


def _fill(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        # PyTorch lists every key, on many lines; the first difference says enough.
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(f"{what} do not fit: {' '.join(lines[1:2])[:300]}") from None
