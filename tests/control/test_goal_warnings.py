"""Warnings about goals: unlike the data, or reached already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make import Make
from tiny import tiny_checkpoint

from worldmodel import load
from worldmodel.agent import Agent
from worldmodel.control.familiarity import Familiar
from worldmodel.control.goal_warnings import goal_warnings


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return load(tiny_checkpoint(tmp_path / "checkpoint"))


def images(make: Make, count: int) -> np.ndarray:
    """Camera images of starts."""
    env = make("PushT")
    return np.stack([env.reset(seed=seed)[0]["pixels"] for seed in range(count)])


def test_a_goal_unlike_the_data_is_told_with_its_distance(agent: Agent, make: Make) -> None:
    """The stored frame is one image; another lies 3.4 times the usual distance from it."""
    seen, other = images(make, 2)
    agent.reset(other)
    assert goal_warnings(agent.perception) == []  # the checkpoint stores no frames to compare with
    z = agent.inference.encode(np.stack([seen, other]))
    numbers = torch.cat([z.flatten(1), agent.inference.read_proprio(z)], 1).float()
    axes = torch.eye(numbers.shape[1]) * 3.4 / (numbers[1] - numbers[0]).norm()
    familiar = Familiar(numbers[0], axes, torch.zeros(1, len(axes)))
    agent.perception.info = replace(agent.info, familiar=familiar.arrays())
    (warning,) = goal_warnings(agent.perception)
    assert "unlike the data: it is 3.40 from the nearest familiar frame" in warning
    for reach in ("each", "any"):
        agent.reset(np.stack([seen, other]), reach=reach)
        (warning,) = goal_warnings(agent.perception)
        assert warning.startswith("goal 2 of 2 is unlike the data: it is 3.40 from")
    agent.reset(seen)
    assert goal_warnings(agent.perception) == []


def test_a_start_near_the_goal_is_told(agent: Agent, make: Make) -> None:
    goal, other = images(make, 2)
    agent.reset(goal)
    (warning,) = goal_warnings(agent.perception, goal)
    assert "near the goal already: their latent distance is 0, and 0.1 counts as near" in warning
    agent.perception.info = replace(agent.info, near=1e-9)
    assert goal_warnings(agent.perception, other) == []
