"""Pictures of latents: what they are worth, and that they are of the right latents."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tiny import tiny_checkpoint

from worldmodel.collect import main as collect
from worldmodel.errors import UserError
from worldmodel.models.checkpoint import BUNDLED_FOLDER, load_checkpoint
from worldmodel.models.decoder import Decoder, how_trained, latents_hash, load_decoder
from worldmodel.models.findings import DECODER
from worldmodel.models.image_decoder import PatchDecoder
from worldmodel.models.planar_pose.representation import SCALE
from worldmodel.models.planar_pose.sprites import SpriteDecoder
from worldmodel.train_decoder import main
from worldmodel.training.decoder_training import psnr, ssim


def test_ssim_and_psnr_are_those_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    one = rng.random((3, 40, 40, 3)).astype(np.float32)
    other = np.clip(one + 0.2 * rng.normal(size=one.shape), 0, 1).astype(np.float32)
    a, b = (torch.from_numpy(image).movedim(-1, 1) for image in (one, other))
    for k in range(3):
        expected = structural_similarity(
            *(one[k], other[k]),
            **{"data_range": 1.0, "channel_axis": -1, "gaussian_weights": True},
            use_sample_covariance=False,
        )
        assert float(ssim(a, b)[k]) == pytest.approx(expected, abs=1e-4)
        expected = peak_signal_noise_ratio(one[k], other[k], data_range=1.0)
        assert float(psnr(a, b)[k]) == pytest.approx(expected, abs=1e-3)
    assert ssim(a, a).tolist() == pytest.approx([1.0] * 3)


def test_a_scene_puts_things_where_the_pose_says_and_the_robot_above() -> None:
    """A red bar that reaches to the right of the block's centre, and a blue dot for the robot."""
    scene = SpriteDecoder(100, SCALE)
    with torch.no_grad():
        scene.ground.fill_(1.0)
        for sprite in (scene.object, scene.robot):
            sprite[:3], sprite[3] = 0.0, -9.0
        half = scene.object.shape[-1] // 2
        scene.object[0], scene.robot[2] = 1.0, 1.0
        scene.object[3, half - 2 : half + 3, half : half + 20] = 9.0
        scene.robot[3, half - 3 : half + 3, half - 3 : half + 3] = 9.0
    # In half images from the middle, y down; the turn is a vector of any length.
    place, robot = torch.tensor([0.2, -0.4]), torch.tensor([-0.6, 0.6])
    for turn, (right, down) in (((3.0, 0.0), (10, 0)), ((0.0, 0.5), (0, 10))):
        pose = torch.cat([SCALE * place, torch.tensor(turn), SCALE * robot])
        image = (scene(pose[None, None])[0].clamp(0, 1) * 255).round().int()
        red, blue, white = [255, 0, 0], [0, 0, 255], [255, 255, 255]
        x, y = 60, 30  # of the block, in pixels
        assert image[:, y + down, x + right].tolist() == red
        assert image[:, y - down, x - right].tolist() == white
        assert image[:, 80, 20].tolist() == blue
        assert image[:, 50, 50].tolist() == white
    both = torch.cat([SCALE * place, torch.tensor([1.0, 0.0]), SCALE * place])
    assert scene(both[None, None])[0, :, 30, 60].round().tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(("tokens", "dim", "side"), [(64, 6, 112), (2, 8, 112), (4, 4, 63)])
def test_patches_paint_images_of_the_asked_size(tokens: int, dim: int, side: int) -> None:
    image = PatchDecoder(tokens, dim, side)(torch.randn(2, tokens, dim))
    assert image.shape == (2, 3, side, side)


def test_the_bundled_decoder_of_push_t_paints_in_every_shape() -> None:
    model, _, info = load_checkpoint("pusht")
    decoder = load_decoder("pusht", model, info)
    assert decoder is not None
    z = torch.randn(2, 3, 1, 6)
    all_of_them = decoder.paint(z)
    assert all_of_them.shape == (2, 3, 112, 112, 3) and all_of_them.dtype == np.uint8
    np.testing.assert_array_equal(decoder.paint(z[1, 2]), all_of_them[1, 2])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten episodes of Push-T."""
    folder = tmp_path_factory.mktemp("data") / "pusht"
    flags = ["--episodes", "10", "--steps", "40", "--workers", "1", "--out", str(folder)]
    assert collect(["--env", "worldmodel/PushT-v0", *flags]) == 0
    return folder


@pytest.mark.slow
def test_training_makes_pictures_that_are_more_like_than_the_average(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "pusht"
    shutil.copytree(BUNDLED_FOLDER / "pusht", checkpoint)
    (checkpoint / DECODER).unlink()
    before = (checkpoint / "model.safetensors").read_bytes()
    model, _, info = load_checkpoint(checkpoint)
    assert load_decoder(checkpoint, model, info) is None and how_trained(checkpoint) is None
    out, picture = tmp_path / "result.json", tmp_path / "picture.png"
    flags = ["--data", data, "--checkpoint", checkpoint, "--steps", 250, "--held_out", 0.2]
    flags += ["--clips", 20, "--out", out, "--picture", picture]
    assert main([str(flag) for flag in flags]) == 0
    rows = json.loads(out.read_text())["by_depth"]
    assert [row["depth"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert rows[0]["ssim"] > rows[0]["average_ssim"] and rows[0]["psnr"] > rows[0]["average_psnr"]
    assert rows[0]["ssim"] > rows[5]["ssim"]  # imagination is not as good as sight
    assert "| encoded |" in capsys.readouterr().out
    assert load_decoder(checkpoint, model, info) is not None
    found = how_trained(checkpoint)
    assert found is not None and found["by_depth"] == rows
    with Image.open(picture) as sheet:  # four clips, each with two rows, of six moments
        assert sheet.width > 6 * 112 and sheet.height > 8 * 112
    # The decoder is for the eye alone: the model is as it was, to the last bit.
    assert (checkpoint / "model.safetensors").read_bytes() == before


def test_a_decoder_of_other_latents_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "pusht"
    shutil.copytree(BUNDLED_FOLDER / "pusht", checkpoint)
    path = checkpoint / DECODER
    whole = path.read_bytes()
    model, _, info = load_checkpoint(checkpoint)
    path.write_bytes(whole[:-50])
    with pytest.raises(UserError, match="damaged"):
        load_decoder(checkpoint, model, info)
    path.write_bytes(whole)
    key = latents_hash(model, info.encoder_hash)
    weights: Any = model.representation
    weights.wide_mix.weight.data += 0.5
    assert latents_hash(model, info.encoder_hash) != key
    with pytest.raises(UserError, match="other latents"):
        load_decoder(checkpoint, model, info)
    tiny = tiny_checkpoint(tmp_path / "tiny")
    assert Decoder(load_checkpoint(tiny)[0], 112).paint(torch.zeros(2, 8)).shape == (112, 112, 3)


def test_bad_input_is_refused_before_the_work(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, message in (
        (["--data", str(data), "--checkpoint", "maze"], "is of worldmodel/PushT-v0"),
        (["--data", str(data), "--checkpoint", "pusht", "--steps", "0"], "steps is 0"),
        (["--data", str(tmp_path / "no"), "--checkpoint", "pusht"], str(tmp_path / "no")),
        (["--data", "x", "--checkpoint", "pusht", "--out", str(tmp_path / "a" / "b")], "no folder"),
    ):
        assert main(flags) == 2
        assert message in capsys.readouterr().err
