"""A person who has only a LeRobot folder: the commands of docs/your-robot.md, one after another."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from pipeline import SEARCH, TINY, command
from recordings import Episode, lerobot_3

ROOT = Path(__file__).parent.parent
SMALL = {  # flags of each command that make it small
    "convert": [],
    "train": "--encoder random-112 --steps 20 --batch 8 --looks 0 --held_out 0.2".split() + TINY,
    "finish": "--decoder_steps 2 --held_out 0.2".split(),
    "inspect": [],
    "plan": SEARCH,
}


def commands_before_the_robot() -> list[list[str]]:
    """The words of each command of the page, from its first step up to the last but one."""
    page = (ROOT / "docs" / "your-robot.md").read_text("utf-8")
    steps = page[page.index("## 1.") : page.index("## 5.")]
    blocks = re.findall(r"^```bash\n(.*?)^```$", steps, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines]


@pytest.mark.slow
def test_a_lerobot_folder_becomes_a_model_and_a_plan(tmp_path: Path) -> None:
    episodes = [Episode(i, 24) for i in range(8)]
    lerobot_3(tmp_path / "my" / "recordings", episodes)
    for name, step in (("now", 2), ("goal", 6)):
        Image.fromarray(episodes[0].pixels[step]).save(tmp_path / f"{name}.png")
    (tmp_path / "configs").symlink_to(ROOT / "configs")

    shown = []
    for words in commands_before_the_robot():
        program = words[0] == "plan"
        name = "plan" if program else words[2].removeprefix("worldmodel.")
        flags = words[1 if program else 3 :]
        shown.append((name, command(tmp_path, name, *flags, *SMALL[name])))
    assert [name for name, _ in shown] == ["convert", "convert", *list(SMALL)[1:]]
    look, convert, train, finish, inspect, plan = (text for _, text in shown)

    assert "lerobot" in look and "proprio observation.state[0:3]" in convert
    table = train[train.index("read by a linear probe") : train.index("wrote runs")]
    assert "observation.state_0" in table and table.strip() in inspect
    assert "familiar: runs/robot" in finish
    assert "surprise: skipped: no environment is named" in finish
    actions = json.loads(plan)["actions"]
    assert actions and all(-1 <= number <= 1 for action in actions for number in action)
    config = json.loads((tmp_path / "runs/robot/checkpoint/config.json").read_text())
    assert config["fit"] == "pad" and config["action_names"] == ["dx", "dy"]
    assert config["hold"] == "repeat"
