"""Encoders by name: tokens, weights files, errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from worldmodel.encoders.augmentation import dead_leaves
from worldmodel.encoders.encoder import Encoder, load_encoder
from worldmodel.encoders.vit import ViT, ViTConfig
from worldmodel.errors import UserError
from worldmodel.training.pretraining import export_encoder

SMALL = ViTConfig(image_size=28, patch_size=14, dim=32, depth=1, heads=2)


@pytest.fixture(scope="module")
def random_encoder() -> Encoder:
    return load_encoder("random-112")


@pytest.fixture
def images() -> np.ndarray:
    return dead_leaves(6, 112, seed=0)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    export_encoder(ViT(SMALL), tmp_path / "encoder", {"steps": 0})
    return tmp_path / "encoder"


def test_tokens_have_the_declared_shape(random_encoder: Encoder, images: np.ndarray) -> None:
    z = random_encoder.encode(images)
    assert z.shape == (6, random_encoder.num_tokens, random_encoder.dim) == (6, 64, 192)
    assert z.dtype == torch.float32 and not z.requires_grad and torch.isfinite(z).all()
    assert random_encoder.encode(images[:0]).shape == (0, 64, 192)


def test_tokens_are_in_row_order(random_encoder: Encoder) -> None:
    pixels = np.full((2, 112, 112, 3), 200, np.uint8)
    pixels[1, 30:40, 72:82] = 0  # patch row 2, column 5
    z = random_encoder.encode(pixels)
    moved = (z[1] - z[0]).norm(dim=-1)
    assert int(moved.argmax()) == 2 * 8 + 5


def test_chunks_and_input_kinds_agree(random_encoder: Encoder, images: np.ndarray) -> None:
    whole = random_encoder.encode(images)
    parts = random_encoder.encode(torch.from_numpy(images), batch=3)
    torch.testing.assert_close(parts, whole, atol=0.1, rtol=0.0)


def test_other_sizes_are_resized(random_encoder: Encoder, images: np.ndarray) -> None:
    large = images.repeat(2, axis=1).repeat(2, axis=2)
    z, z_large = random_encoder.encode(images), random_encoder.encode(large)
    assert (z - z_large).norm() < 0.2 * (z - z.roll(1, 0)).norm()


def test_encoder_stays_frozen_inside_a_trained_model(random_encoder: Encoder) -> None:
    model = torch.nn.ModuleList([random_encoder]).train()
    assert not random_encoder.training and not random_encoder.backbone.training
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((1, 112, 112, 3), np.float32), "float32.*uint8"),
        (np.zeros((112, 112, 3), np.uint8), r"pixels\[None\]"),
        (np.zeros((1, 3, 112, 112), np.uint8), r"\[B, H, W, 3\]"),
        (np.zeros((1, 0, 112, 3), np.uint8), r"\[B, H, W, 3\]"),
    ],
)
def test_wrong_pixels_are_named(random_encoder: Encoder, pixels: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        random_encoder.encode(pixels)


def test_hash_is_of_weights_and_preprocessing(random_encoder: Encoder, exported: Path) -> None:
    assert load_encoder("random-112").hash == random_encoder.hash
    assert load_encoder("random-112", image_size=56).hash != random_encoder.hash
    before = load_encoder("dino-112", exported).hash
    assert load_encoder("dino-112", exported / "model.safetensors").hash == before
    state = load_file(exported / "model.safetensors")
    state["cls"] = state["cls"] + 1
    save_file(state, exported / "model.safetensors")
    assert load_encoder("dino-112", exported).hash != before


def test_loading_does_not_change_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_encoder("random-112")
    assert torch.rand(1) == expected


def test_exported_weights_are_loaded(exported: Path) -> None:
    encoder = load_encoder("dino-112", exported)
    assert (encoder.image_size, encoder.num_tokens, encoder.dim) == (28, 4, 32)
    torch.manual_seed(1)
    expected = ViT(SMALL).state_dict()
    for key, value in encoder.backbone.state_dict().items():
        torch.testing.assert_close(value, expected[key].bfloat16().float())


def test_bundled_encoder_loads(images: np.ndarray) -> None:
    encoder = load_encoder()
    assert encoder.name == "ibot-112" and encoder.encode(images).shape == (6, 64, 192)


def test_bad_weights_are_user_errors(exported: Path, tmp_path: Path) -> None:
    file = exported / "model.safetensors"
    with pytest.raises(UserError, match="no weights file"):
        load_encoder("dino-112", tmp_path / "nothing.safetensors")
    with pytest.raises(UserError, match="takes no weights"):
        load_encoder("random-112", file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot read weights"):
        load_encoder("dino-112", exported)
    file.write_bytes(whole)
    config = json.loads((exported / "config.json").read_text())
    config["vit"]["dim"] = 64
    (exported / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="do not fit"):
        load_encoder("dino-112", exported)
    (exported / "config.json").write_text("{")
    with pytest.raises(UserError, match="does not describe"):
        load_encoder("dino-112", exported)
    (exported / "config.json").unlink()
    with pytest.raises(UserError, match="belongs beside"):
        load_encoder("dino-112", exported)
    pickled = tmp_path / "pickled.pth"
    torch.save({"code": Path("x")}, pickled)  # needs more than weights_only allows
    with pytest.raises(UserError, match="cannot read weights"):
        load_encoder("dino-112", pickled)


def test_image_size_must_fit_the_patches() -> None:
    assert load_encoder("random-112", image_size=84).num_tokens == 36
    with pytest.raises(UserError, match="such as 98"):
        load_encoder("random-112", image_size=100)
