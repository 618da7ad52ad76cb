"""The frameskip that training measures."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from worldmodel.training.frameskip import measure_frameskip


def recorded(speed: float, steps: int = 60, episodes: int = 40) -> tuple[Any, np.ndarray]:
    """Episodes of a point that runs round a circle, `speed` radians per action, as tokens."""
    rng = np.random.default_rng(0)
    lengths = np.full(episodes, steps)
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
    angle = (rng.uniform(0, 2 * np.pi, (episodes, 1)) + speed * np.arange(steps + 1)).ravel()
    tokens = np.stack([np.cos(angle), np.sin(angle)], -1)[:, None].astype(np.float16)
    return SimpleNamespace(lengths=lengths, offsets=offsets), tokens


# One action changes the tokens by 2 - 2 cos(speed), random frames of an episode differ by about 2.
@pytest.mark.parametrize(("speed", "frameskip"), [(0.05, 5), (0.6, 4), (0.82, 2), (1.2, 1), (3, 1)])
def test_the_faster_frames_change_the_fewer_actions(speed: float, frameskip: int) -> None:
    dataset, tokens = recorded(speed)
    assert measure_frameskip([dataset], [tokens]) == frameskip


def test_several_datasets_count_together() -> None:
    slow, fast = recorded(0.05), recorded(0.82)  # 5 and 2 actions
    assert measure_frameskip([slow[0], fast[0]], [slow[1], fast[1]]) in (3, 4)


def test_episodes_of_one_action() -> None:
    dataset, tokens = recorded(0.5, steps=1)
    assert measure_frameskip([dataset], [tokens]) == 1


def test_frames_that_never_change() -> None:
    dataset, tokens = recorded(0.0)
    assert measure_frameskip([dataset], [np.zeros_like(tokens)]) == 1
