"""Training of decoders: similarity of images, and the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from worldmodel.collect import main as collect
from worldmodel.models.checkpoint import BUNDLED_FOLDER, load_checkpoint
from worldmodel.models.decoder import how_trained, load_decoder
from worldmodel.models.findings import DECODER
from worldmodel.train_decoder import main
from worldmodel.training.decoder_training import psnr, ssim


def test_ssim_and_psnr_agree_with_scikit_image() -> None:
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


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten episodes of Push-T."""
    folder = tmp_path_factory.mktemp("data") / "pusht"
    flags = ["--episodes", "10", "--steps", "40", "--workers", "1", "--out", str(folder)]
    assert collect(["--env", "worldmodel/PushT-v0", *flags]) == 0
    return folder


@pytest.mark.slow
def test_trained_pictures_are_closer_than_the_average_frame(
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
    assert rows[0]["ssim"] > rows[5]["ssim"]  # predictions are less exact
    assert "| encoded |" in capsys.readouterr().out
    assert load_decoder(checkpoint, model, info) is not None
    found = how_trained(checkpoint)
    assert found is not None and found["by_depth"] == rows
    with Image.open(picture) as sheet:  # four clips, each with two rows, of six moments
        assert sheet.width > 6 * 112 and sheet.height > 8 * 112
    # The model itself is unchanged.
    assert (checkpoint / "model.safetensors").read_bytes() == before


def test_bad_input_is_refused_before_training(
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
