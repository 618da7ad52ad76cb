"""Fixtures of the tests of data."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from dot import DOT, dot

from worldmodel.data.collection import collect


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("module")
    (folder / "dot_env.py").write_text(DOT)
    sys.path.insert(0, str(folder))  # worker processes take over sys.path
    return folder


@pytest.fixture(scope="session")
def recorded(module: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 45 episodes; tests copy it before they change it."""
    out = tmp_path_factory.mktemp("recorded") / "dot-v3"
    collect(dot(out))
    return out
