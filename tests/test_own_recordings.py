"""A person who has only a LeRobot folder: three commands to a plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from pipeline import SEARCH, TINY, command
from recordings import Episode, lerobot_3


@pytest.mark.slow
def test_a_lerobot_folder_becomes_a_model_and_a_plan(tmp_path: Path) -> None:
    episodes = [Episode(i, 24) for i in range(8)]
    lerobot_3(tmp_path / "recordings", episodes)
    for name, step in (("now", 2), ("goal", 6)):
        Image.fromarray(episodes[0].pixels[step]).save(tmp_path / f"{name}.png")

    convert = command(tmp_path, "convert", "recordings", "--hold", "zero", "--out", "data")
    assert "8" in convert and "proprio observation.state[0:3]" in convert
    train = ("--data", "data", "--encoder", "random-112", "--steps", 20, "--batch", 8, "--looks", 0)
    trained = command(tmp_path, "train", *train, "--held_out", 0.2, "--out", "run", *TINY)
    inspected = command(tmp_path, "inspect", "run/checkpoint")
    table = trained[trained.index("read by a linear probe") : trained.index("wrote run")]
    assert "observation.state_0" in table and table.strip() in inspected
    images = ("--image", "now.png", "--goal", "goal.png")
    plan = json.loads(command(tmp_path, "plan", *images, "--checkpoint", "run/checkpoint", *SEARCH))

    assert plan["actions"] and all(
        -1 <= number <= 1 for action in plan["actions"] for number in action
    )
    config = json.loads((tmp_path / "run/checkpoint/config.json").read_text())
    assert config["fit"] == "pad" and config["action_names"] == ["dx", "dy"]
