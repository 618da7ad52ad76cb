"""Decoders: they draw what latents say, and fit the latents they were trained for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_checkpoint

from worldmodel.errors import UserError
from worldmodel.models.checkpoint import BUNDLED_FOLDER, load_checkpoint
from worldmodel.models.decoder import Decoder, latents_hash, load_decoder
from worldmodel.models.findings import DECODER
from worldmodel.models.image_decoder import PatchDecoder
from worldmodel.models.planar_pose.representation import SCALE
from worldmodel.models.planar_pose.sprites import SpriteDecoder


def test_sprites_are_drawn_at_the_pose_with_the_robot_on_top() -> None:
    """A red bar that reaches to the right of the block's centre, and a blue dot for the robot."""
    decoder = SpriteDecoder(100, SCALE)
    with torch.no_grad():
        decoder.ground.fill_(1.0)
        for sprite in (decoder.object, decoder.robot):
            sprite[:3], sprite[3] = 0.0, -9.0
        half = decoder.object.shape[-1] // 2
        decoder.object[0], decoder.robot[2] = 1.0, 1.0
        decoder.object[3, half - 2 : half + 3, half : half + 20] = 9.0
        decoder.robot[3, half - 3 : half + 3, half - 3 : half + 3] = 9.0
    # In half images from the centre, y down; the heading is a vector of any length.
    place, robot = torch.tensor([0.2, -0.4]), torch.tensor([-0.6, 0.6])
    for heading, (right, down) in (((3.0, 0.0), (10, 0)), ((0.0, 0.5), (0, 10))):
        pose = torch.cat([SCALE * place, torch.tensor(heading), SCALE * robot])
        image = (decoder(pose[None, None])[0].clamp(0, 1) * 255).round().int()
        red, blue, white = [255, 0, 0], [0, 0, 255], [255, 255, 255]
        x, y = 60, 30  # of the block, in pixels
        assert image[:, y + down, x + right].tolist() == red
        assert image[:, y - down, x - right].tolist() == white
        assert image[:, 80, 20].tolist() == blue
        assert image[:, 50, 50].tolist() == white
    overlapping = torch.cat([SCALE * place, torch.tensor([1.0, 0.0]), SCALE * place])
    assert decoder(overlapping[None, None])[0, :, 30, 60].round().tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(("tokens", "dim", "side"), [(64, 6, 112), (2, 8, 112), (4, 4, 63)])
def test_patch_decoders_give_images_of_the_asked_size(tokens: int, dim: int, side: int) -> None:
    image = PatchDecoder(tokens, dim, side)(torch.randn(2, tokens, dim))
    assert image.shape == (2, 3, side, side)


def test_a_bundled_decoder_takes_latents_of_any_leading_shape() -> None:
    model, _, info = load_checkpoint("pusht")
    decoder = load_decoder("pusht", model, info)
    assert decoder is not None
    z = torch.randn(2, 3, 1, 6)
    all_of_them = decoder.paint(z)
    assert all_of_them.shape == (2, 3, 112, 112, 3) and all_of_them.dtype == np.uint8
    np.testing.assert_array_equal(decoder.paint(z[1, 2]), all_of_them[1, 2])


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
