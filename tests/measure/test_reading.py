"""What can be read off latents, measured after training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_checkpoint

from worldmodel.data.collection import CollectConfig, collect
from worldmodel.data.dataset import open_dataset
from worldmodel.errors import UserError
from worldmodel.measure.reading import store_reading, visible_numbers
from worldmodel.models.checkpoint import load_info
from worldmodel.models.summary import reading_table

MAZE = "worldmodel/Maze-v0"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("data") / "maze"
    collect(CollectConfig(MAZE, out=out, episodes=6, steps=30))
    return str(out)


def test_numbers_that_an_image_shows(data: str) -> None:
    dataset = open_dataset(data)
    names, values = visible_numbers(dataset)
    assert names == ["x", "y"]  # no velocities; the state has the same two
    np.testing.assert_allclose(values, dataset.proprio[:, :2], atol=1e-6)
    still = replace(dataset, proprio=np.zeros_like(dataset.proprio), state=None)
    assert visible_numbers(still)[0] == []


def test_the_table_is_stored_with_the_checkpoint(data: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "maze", MAZE)
    table = store_reading(checkpoint, data)
    r2 = load_info(checkpoint).reading["r2"]
    assert list(r2) == ["x", "y"] and len(r2["x"]) == 1 + 3  # the frame, and the horizon
    assert table == "\n".join(reading_table(r2))


def test_what_is_hardly_read_is_named() -> None:
    lines = reading_table({"gripper": [0.98, 0.97, 0.9], "sin block_angle": [0.2, 0.1, 0.1]})
    assert lines[2].endswith("0.90") and lines[3].endswith("POOR")
    assert "hold little of sin block_angle; plans" in lines[4]


def test_too_few_episodes(tmp_path: Path) -> None:
    collect(CollectConfig(MAZE, out=tmp_path / "data", episodes=2, steps=20))
    with pytest.raises(UserError, match="has 2 episodes"):
        store_reading(tiny_checkpoint(tmp_path / "maze", MAZE), str(tmp_path / "data"))
