"""Goal images and the files beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from worldmodel import goal
from worldmodel.errors import UserError
from worldmodel.measure.goals import load_goal, save_goal
from worldmodel.measure.tasks import sample_tasks

PUSHT = "worldmodel/PushT-v0"
MAZE = "worldmodel/Maze-v0"


def test_goal_files_round_trip(maze: Any, tmp_path: Path) -> None:
    task = sample_tasks(maze, 1, 0, 25)[0]
    save_goal(task, maze, tmp_path / "goal.png")
    pixels, sidecar = load_goal(tmp_path / "goal.png", 112)
    np.testing.assert_array_equal(pixels, maze.unwrapped.render_state(task.goal_state))
    assert sidecar is not None and sidecar.env == MAZE
    assert sidecar.env_kwargs == {"layout": "random"}
    np.testing.assert_array_equal(sidecar.start_state, task.start_state)
    np.testing.assert_array_equal(sidecar.goal_state, task.goal_state)
    (tmp_path / "goal.json").unlink()
    assert load_goal(tmp_path / "goal.png", 112)[1] is None


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("RGBA", "transparent in places"),
        ("I;16", "mode I;16: save it as plain RGB"),
    ],
)
def test_unusable_goal_images_are_refused(tmp_path: Path, mode: str, message: str) -> None:
    Image.new(mode, (112, 112)).save(tmp_path / "goal.png")
    with pytest.raises(UserError, match=message):
        load_goal(tmp_path / "goal.png", 112)


@pytest.mark.parametrize(
    ("fit", "black", "word"),
    [("pad", 28, "padded"), ("crop", 0, "cropped"), ("stretch", 0, "squeezed")],
)
def test_a_goal_of_another_size_is_fitted(
    tmp_path: Path, fit: str, black: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (640, 320), (250, 250, 250)).save(tmp_path / "goal.png")
    pixels, _ = load_goal(tmp_path / "goal.png", 112, fit)
    assert pixels.shape == (112, 112, 3)
    assert (pixels[: max(0, black - 2)] == 0).all() and (
        pixels[black + 2 : 110 - black] == 250
    ).all()
    assert f"640 x 320 pixels, {word} to 112 x 112" in capsys.readouterr().err


def test_a_photo_is_turned_as_the_camera_was_held(tmp_path: Path) -> None:
    photo = Image.new("RGB", (64, 64))
    photo.paste((250, 0, 0), (0, 0, 64, 10))  # a red line at the top, as it is stored
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show
    photo.save(tmp_path / "goal.png", exif=exif)
    pixels, _ = load_goal(tmp_path / "goal.png", 64)
    assert (pixels[:, -8:, 0] == 250).all() and (pixels[:, :40] == 0).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_plain_images_of_other_modes_will_do(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (112, 112), (102, 102, 102)).convert(mode).save(tmp_path / "goal.png")
    assert (load_goal(tmp_path / "goal.png", 112)[0] == 102).all()


def test_broken_goal_files_are_refused(pusht: Any, tmp_path: Path) -> None:
    path = tmp_path / "goal.png"
    with pytest.raises(UserError, match="no image at"):
        load_goal(path, 112)
    path.write_text("not a picture")
    with pytest.raises(UserError, match="not an image"):
        load_goal(path, 112)
    save_goal(sample_tasks(pusht, 1, 0, 25)[0], pusht, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not an image"):
        load_goal(path, 112)
    path.write_bytes(whole)
    for text in ("{", "[]", '{"env": "x"}', '{"env":"x","env_kwargs":{},"start_state":[NaN]}'):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(UserError, match="no description of a goal"):
            load_goal(path, 112)
    with pytest.raises(UserError, match="should end in .png"):
        save_goal(sample_tasks(pusht, 1, 0, 25)[0], pusht, tmp_path / "goal.jpg")


def test_a_file_about_another_image_is_refused(pusht: Any, tmp_path: Path) -> None:
    one, other = sample_tasks(pusht, 2, 0, 25)
    save_goal(one, pusht, tmp_path / "goal.png")
    save_goal(other, pusht, tmp_path / "other.png")
    with Image.open(tmp_path / "goal.png") as image:
        image.save(tmp_path / "goal.png", compress_level=1)  # other bytes, the same pixels
    assert load_goal(tmp_path / "goal.png", 112)[1] is not None
    (tmp_path / "other.png").replace(tmp_path / "goal.png")
    with pytest.raises(UserError, match="goal.json describes another image than .*goal.png"):
        load_goal(tmp_path / "goal.png", 112)
    beside = tmp_path / "goal.json"
    content = json.loads(beside.read_text())
    del content["image_hash"]  # as earlier versions wrote it
    beside.write_text(json.dumps(content))
    assert load_goal(tmp_path / "goal.png", 112)[1] is not None


def test_the_goal_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--env", PUSHT, "--seed", "3", "--out", str(tmp_path / "g.png")]
    assert goal.main(arguments) == 0
    assert load_goal(tmp_path / "g.png", 112)[1] is not None
    assert goal.main([*arguments, "--goal_ofset", "3"]) == 2
    assert "did you mean '--goal_offset'" in capsys.readouterr().err
