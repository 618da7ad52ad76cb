"""Fixtures of the tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldmodel.data.collection import CollectConfig, collect


@pytest.fixture(scope="session")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset ``maze``: 120 short episodes."""
    folder = tmp_path_factory.mktemp("data")
    out = folder / "maze"
    collect(CollectConfig(env="worldmodel/Maze-v0", episodes=120, steps=20, out=out, workers=1))
    return folder
