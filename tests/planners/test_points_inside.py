"""The guardrail on the points of an action."""

from __future__ import annotations

import pytest
import torch

from planners import Trajectory
from planners.guardrails import Box, points_inside

SQUARE = Box((0.0, 1.0), (0.0, 1.0))
ENDS = [((0, 1), SQUARE, 0.0), ((2, 3), SQUARE, 0.1)]  # strokes end 0.1 inside the square
INSIDE, LATE, STILL = [0.2, 0.2, 0.5, 0.5], [0.2, 0.2, 0.95, 0.5], [0.95, 0.95, 0.95, 0.95]


@pytest.mark.parametrize(
    ("strokes", "violation"),
    [([INSIDE], -0.2), ([LATE], 0.05), ([INSIDE, LATE], 0.05), ([LATE, INSIDE], 0.05)],
)
def test_the_worst_of_all_strokes_of_a_model_step_counts(
    strokes: list[list[float]], violation: float
) -> None:
    actions = torch.tensor([number for stroke in strokes for number in stroke])[None, None, None]
    limit = points_inside(ENDS, width=4)
    found = limit(Trajectory(torch.zeros(1, 1, 1, 1, 1)), actions)
    assert found.shape == (1, 1, 1)
    assert float(found) == pytest.approx(violation, abs=1e-6)


def test_a_stroke_that_goes_nowhere_may_lie_anywhere() -> None:
    actions = torch.tensor(STILL)[None, None, None]
    limit = points_inside(ENDS, width=4)
    assert float(limit(Trajectory(torch.zeros(1, 1, 1, 1, 1)), actions)) <= 0
