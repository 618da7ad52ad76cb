"""Goal images and the files beside them."""

from __future__ import annotations

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
    ("mode", "size", "message"),
    [
        ("RGBA", (112, 112), "mode RGBA .4 channel"),
        ("L", (112, 112), "mode L .1 channel"),
        ("RGB", (112, 96), "112x96 pixels"),
        ("RGB", (64, 64), "64x64 pixels: this model takes 112x112"),
    ],
)
def test_unusable_goal_images_are_refused(
    tmp_path: Path, mode: str, size: tuple[int, int], message: str
) -> None:
    Image.new(mode, size).save(tmp_path / "goal.png")
    with pytest.raises(UserError, match=message):
        load_goal(tmp_path / "goal.png", 112)


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


def test_the_goal_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--env", PUSHT, "--seed", "3", "--out", str(tmp_path / "g.png")]
    assert goal.main(arguments) == 0
    assert load_goal(tmp_path / "g.png", 112)[1] is not None
    assert goal.main([*arguments, "--goal_ofset", "3"]) == 2
    assert "did you mean '--goal_offset'" in capsys.readouterr().err
