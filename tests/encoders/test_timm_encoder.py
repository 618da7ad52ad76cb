"""Encoders of timm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from worldmodel.encoders.augmentation import dead_leaves
from worldmodel.encoders.encoder import load_encoder
from worldmodel.errors import UserError


@pytest.fixture
def images() -> np.ndarray:
    return dead_leaves(6, 112, seed=0)


def test_unknown_names_are_errors_with_the_nearest() -> None:
    with pytest.raises(UserError, match="nearest: dino-112"):
        load_encoder("dino-113")
    with pytest.raises(UserError, match="vit_small_patch14_dinov2.lvd142m"):
        load_encoder("vit_smal_patch14_dinov2.lvd142m")


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("vit_small_patch14_dinov2.lvd142m", 4), ("vit_small_patch16_dinov3.lvd1689m", 4)],
)
def test_timm_families_from_a_local_file(
    name: str, tokens: int, images: np.ndarray, tmp_path: Path
) -> None:
    fresh = load_encoder(name, pretrained=False, image_size=28 if "14" in name else 32)
    backbone = fresh.backbone
    torch.save(backbone.state_dict(), tmp_path / "w.pth")
    loaded = load_encoder(name, tmp_path / "w.pth", image_size=fresh.image_size)
    assert loaded.hash == fresh.hash and loaded.num_tokens == tokens
    assert torch.equal(loaded.mean.flatten(), torch.tensor(backbone.pretrained_cfg["mean"]))
    # Against timm itself: patch tokens only, after the last norm.
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    size = (fresh.image_size,) * 2
    x = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True)
    with torch.no_grad():
        whole = backbone.forward_features((x / 255 - fresh.mean) / fresh.std)
    expected = whole[:, whole.shape[1] - tokens :]
    assert (loaded.encode(images) - expected).abs().mean() < 0.05 * expected.abs().mean()
    (tmp_path / "w.pth").write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot read weights"):
        load_encoder(name, tmp_path / "w.pth")


def test_without_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    code = "from worldmodel.encoders.encoder import load_encoder\n"
    code += "load_encoder('vit_small_patch14_dinov2.lvd142m')"
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        timeout=120,
    )
    message = done.stderr.splitlines()[-1]
    assert "UserError: cannot download the weights of vit_small_patch14_dinov2" in message
    assert all(word in message for word in ("--encoder_weights PATH", "HF_HOME", "HF_ENDPOINT"))
