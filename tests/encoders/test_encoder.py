"""Encoders, their pretraining and the probe that judges them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from worldmodel import probe as probe_module
from worldmodel.encoders import augmentation as augment_module
from worldmodel.encoders.augmentation import Augment, AugmentConfig, dead_leaves
from worldmodel.encoders.encoder import Encoder, ViT, ViTConfig, load_encoder, patchify
from worldmodel.encoders.pretraining import (
    PretrainConfig,
    block_masks,
    export,
    main,
    pretrain,
    sinkhorn,
    vicreg,
)
from worldmodel.errors import UserError
from worldmodel.measure import readout as readout

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
    export(ViT(SMALL), tmp_path / "encoder", {"steps": 0})
    return tmp_path / "encoder"


# ------------------------------------------------------------------------------------ encoders
def test_tokens_have_the_promised_shape(random_encoder: Encoder, images: np.ndarray) -> None:
    z = random_encoder.encode(images)
    assert z.shape == (6, random_encoder.num_tokens, random_encoder.dim) == (6, 64, 192)
    assert z.dtype == torch.float32 and not z.requires_grad and torch.isfinite(z).all()
    assert random_encoder.encode(images[:0]).shape == (0, 64, 192)


def test_tokens_stand_row_by_row(random_encoder: Encoder) -> None:
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
    ("pixels", "said"),
    [
        (np.zeros((1, 112, 112, 3), np.float32), "float32.*uint8"),
        (np.zeros((112, 112, 3), np.uint8), r"pixels\[None\]"),
        (np.zeros((1, 3, 112, 112), np.uint8), r"\[B, H, W, 3\]"),
        (np.zeros((1, 0, 112, 3), np.uint8), r"\[B, H, W, 3\]"),
    ],
)
def test_wrong_pixels_are_named(random_encoder: Encoder, pixels: np.ndarray, said: str) -> None:
    with pytest.raises(UserError, match=said):
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


def test_loading_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_encoder("random-112")
    assert torch.rand(1) == expected


def test_exported_weights_come_back(exported: Path) -> None:
    encoder = load_encoder("dino-112", exported)
    assert (encoder.image_size, encoder.num_tokens, encoder.dim) == (28, 4, 32)
    torch.manual_seed(1)
    expected = ViT(SMALL).state_dict()
    for key, value in encoder.backbone.state_dict().items():
        torch.testing.assert_close(value, expected[key].bfloat16().float())


def test_bundled_encoder_loads(images: np.ndarray) -> None:
    encoder = load_encoder()
    assert encoder.name == "dino-112" and encoder.encode(images).shape == (6, 64, 192)


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


def test_unknown_names_get_the_nearest() -> None:
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


# --------------------------------------------------------------------------------- pretraining
def test_patches_are_cut_row_by_row() -> None:
    x = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    assert torch.equal(patchify(x, 2)[1, 4], x[1, :, 2:4, 2:4].flatten())


def test_hidden_positions_do_not_leak() -> None:
    torch.manual_seed(0)
    vit = ViT(SMALL)
    a, b = torch.randn(1, 3, 28, 28), torch.randn(1, 3, 28, 28)
    b[..., :14, :14] = a[..., :14, :14]
    mask = torch.tensor([[False, True, True, True]])
    assert torch.equal(vit(a, mask), vit(b, mask))
    assert not torch.equal(vit(a), vit(b))


def test_masks_hit_their_ratios() -> None:
    g = torch.Generator().manual_seed(0)
    masks = [block_masks(40, 8, (0.1, 0.6), 0.75, g) for _ in range(3)]
    hidden = masks[0].sum(1)
    assert int((hidden == 0).sum()) == 10
    assert hidden[hidden > 0].min() >= 6 and hidden.max() <= 39
    assert len({int(m.sum()) for m in masks}) == 1
    assert not torch.equal(masks[0], masks[1])


def test_sinkhorn_balances_prototypes() -> None:
    g = torch.Generator().manual_seed(0)
    scores = torch.rand(512, 16, generator=g) * 0.4
    scores[:, 0] += 0.5  # everybody's favourite
    q = sinkhorn(scores, 0.1, iterations=20)
    torch.testing.assert_close(q.sum(1), torch.ones(512))
    torch.testing.assert_close(q.sum(0), torch.full((16,), 32.0), rtol=0.02, atol=0.0)


def test_vicreg_wants_spread_embeddings_that_agree() -> None:
    g = torch.Generator().manual_seed(0)
    good = torch.randn(4000, 8, generator=g) * 1.1
    assert vicreg(good, good) < 0.01
    assert vicreg(torch.zeros(4000, 8), torch.zeros(4000, 8)) > 0.9  # collapsed to a point
    line = good[:, :1].expand(-1, 8)
    assert vicreg(line, line) > vicreg(good, good) + 0.2  # to a line
    torch.testing.assert_close(vicreg(good, good + 1), vicreg(good, good) + 1)


def test_augment_is_a_function_of_its_generator(images: np.ndarray) -> None:
    config = AugmentConfig(global_crops=2)
    frames = torch.from_numpy(images)
    augment = Augment(config, frames, torch.full((3,), 0.5), torch.full((3,), 0.25))
    first, small = augment(frames, torch.Generator().manual_seed(1))
    again, _ = augment(frames, torch.Generator().manual_seed(1))
    other, _ = augment(frames, torch.Generator().manual_seed(2))
    assert [x.shape for x in first] == [(6, 3, 112, 112)] * 2
    assert [x.shape for x in small] == [(6, 3, 56, 56)] * 2
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1]) and torch.isfinite(torch.cat(first)).all()


def test_local_crops_look_where_something_is() -> None:
    frames = torch.full((64, 112, 112, 3), 255, dtype=torch.uint8)
    frames[:, 80:100, 12:32] = 0
    plain = AugmentConfig(recolour=0.0, background=0.0, noise=0.0)
    augment = Augment(plain, frames, torch.full((3,), 0.5), torch.full((3,), 0.25))
    _, small = augment(frames, torch.Generator().manual_seed(0))
    seen = [float((crop.amin((1, 2, 3)) < -1).float().mean()) for crop in small]
    assert min(seen) > 0.7  # a crop anywhere sees it in fewer than half of the images


def test_procedural_images_are_seeded_and_varied() -> None:
    a = dead_leaves(4, 64, seed=5)
    assert a.dtype == np.uint8 and a.shape == (4, 64, 64, 3)
    assert np.array_equal(a, dead_leaves(4, 64, seed=5))
    assert all(image.std() > 1 for image in a) and not np.array_equal(a[0], a[1])


@pytest.fixture
def tiny(tmp_path: Path) -> PretrainConfig:
    np.save(tmp_path / "frames.npy", dead_leaves(12, 64, seed=2))
    return PretrainConfig(
        data=str(tmp_path / "frames.npy"),
        out=str(tmp_path / "run"),
        steps=8,
        batch=4,
        bank=4,
        dim=32,
        depth=1,
        heads=2,
        prototypes=16,
        log_every=4,
        augment=AugmentConfig(global_size=56, local_size=28),
    )


@pytest.mark.parametrize("objective", ["dino", "vicreg"])
def test_resumed_run_is_bit_identical(
    tiny: PretrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    objective: Literal["dino", "vicreg"],
) -> None:
    tiny = dataclasses.replace(tiny, objective=objective)
    pretrain(tiny)
    whole = load_file(tmp_path / "run" / "encoder" / "model.safetensors")
    # Interrupted after four steps: the schedules must be those of the eight.
    halves = dataclasses.replace(tiny, out=str(tmp_path / "halves"), save_minutes=0.0)
    from worldmodel.encoders import pretraining as module

    original = module.Trainer.train_step

    def interrupted(self: module.Trainer) -> dict[str, torch.Tensor]:
        if self.step == 4:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(module.Trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(halves)
    monkeypatch.undo()
    pretrain(dataclasses.replace(halves, resume=True))
    resumed = load_file(tmp_path / "halves" / "encoder" / "model.safetensors")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    states = [
        torch.load(tmp_path / run / "state.pt", weights_only=True) for run in ("run", "halves")
    ]
    assert [s["step"] for s in states] == [8, 8]
    for key, value in states[0]["student"].items():
        assert torch.equal(value, states[1]["student"][key])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 8]
    assert load_encoder("dino-112", tmp_path / "run" / "encoder").num_tokens == 16


def test_a_run_is_not_overwritten(tiny: PretrainConfig) -> None:
    with pytest.raises(UserError, match="Nothing to resume"):
        pretrain(dataclasses.replace(tiny, resume=True, steps=1))
    pretrain(dataclasses.replace(tiny, steps=1))
    with pytest.raises(UserError, match="holds a run"):
        pretrain(tiny)


def test_pretrain_command_line_errors(
    tiny: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(tmp_path / "none.npy"), "--out", str(tmp_path / "o")]) == 2
    assert "none.npy" in capsys.readouterr().err
    np.save(tmp_path / "bad.npy", np.zeros((3, 8, 8, 3)))
    assert main(["--data", str(tmp_path / "bad.npy"), "--out", str(tmp_path / "o")]) == 2
    assert "float64" in capsys.readouterr().err
    assert main(["--data", tiny.data, "--augment.global_crop", "1"]) == 2
    assert "global_crops" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- probe
def test_probes_recover_what_is_there() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1200, 8, generator=g)
    y = torch.stack([x[:, 0] - 2 * x[:, 1], x[:, 2] * x[:, 3]], 1)
    fit, val, test = slice(0, 800), slice(800, 1000), slice(1000, 1200)
    weights = readout.ridge(x[fit], y[fit], x[val], y[val])
    linear = readout.r2(x[test] @ weights[:-1] + weights[-1], y[test])
    assert linear[0] > 0.99 and linear[1] < 0.2


def test_attention_probe_finds_the_odd_token() -> None:
    g = torch.Generator().manual_seed(0)
    tokens = 0.1 * torch.randn(1000, 9, 8, generator=g)
    place = torch.randint(9, (1000,), generator=g)
    tokens[torch.arange(1000), place] += 2.0
    y = torch.stack([place % 3, place // 3], 1).float() - 1
    model = readout.fit_attention(tokens[:700], y[:700], tokens[700:850], y[700:850], seed=0)
    with torch.no_grad():
        assert readout.r2(model(tokens[850:]), y[850:]).min() > 0.95


@pytest.mark.slow
def test_probe_command_line(
    tmp_path: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from worldmodel import collect

    data = str(tmp_path / "pusht")
    collected = ["--env", "worldmodel/PushT-v0", "--out", data, "--episodes", "6", "--steps", "30"]
    assert collect.main([*collected, "--workers", "1"]) == 0
    out = tmp_path / "probe.json"
    asked = ["--data", data, "--encoders", f"random-112,dino-112={exported}", "--out", str(out)]
    assert probe_module.main([*asked, "--components", "32", "--checkpoints", "pusht"]) == 0
    result = json.loads(out.read_text())
    names = ["pusher_x", "pusher_y", "block_x", "block_y", "sin block_angle", "cos block_angle"]
    assert [list(row["r2"]) for row in result["results"]] == [names] * 6
    shown = capsys.readouterr().out
    assert "| random-112 | ridge |" in shown and "| latents of pusht | ridge |" in shown
    assert probe_module.main(["--data", data, "--targets", "weight"]) == 2
    assert "pusher_x" in capsys.readouterr().err


def test_another_look_leaves_everything_in_its_place() -> None:
    """Two halves of an image, of other colours each time: the border between them stays."""
    halves = torch.full((60, 3, 56, 56), 0.9)
    halves[..., 20:] = 0.3
    config = AugmentConfig(global_size=56, recolour=1.0, background=0.0, noise=0.0)
    textures = torch.from_numpy(dead_leaves(4, 56, 0))
    look = Augment(config, textures, torch.zeros(3), torch.ones(3))
    seen = look.relook(halves.clone(), torch.Generator().manual_seed(0))
    assert seen.shape == halves.shape and seen[:, :, 0, 0].std(0).min() > 0.1
    jumps = seen.diff(dim=-1).abs().sum((1, 2))
    assert (jumps.argmax(1) == 19).float().mean() > 0.9


def test_augment_needs_no_global_state(images: np.ndarray) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    frames = torch.from_numpy(images)
    augment = augment_module.Augment(
        AugmentConfig(), frames, torch.full((3,), 0.5), torch.full((3,), 0.25)
    )
    augment(frames, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
