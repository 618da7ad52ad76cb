"""Environments and a tiny checkpoint that tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_checkpoint

from worldmodel.measure.environments import make_env

PUSHT = "worldmodel/PushT-v0"
MAZE = "worldmodel/Maze-v0"
CHIPS = "worldmodel/GranularChips-v0"


@pytest.fixture(scope="module")
def pusht() -> Any:
    env = make_env(PUSHT, {})
    yield env
    env.close()


@pytest.fixture(scope="module")
def maze() -> Any:
    env = make_env(MAZE, {"layout": "random"})
    yield env
    env.close()


@pytest.fixture(scope="module")
def chips() -> Any:
    env = make_env(CHIPS, {"chips": 3})
    yield env
    env.close()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "pusht")
