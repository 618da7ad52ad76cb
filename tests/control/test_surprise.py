"""p-values and scores of prediction errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from planners import Trajectory
from worldmodel.control.surprise import UsualErrors, squared_errors
from worldmodel.models.checkpoint import load_checkpoint


def test_p_values_are_fractions_of_usual_errors() -> None:
    rng = np.random.default_rng(0)
    usual = rng.exponential(size=(5000, 2)) * [1.0, 100.0]
    expectation = UsualErrors.from_errors(usual)
    assert expectation.levels[0] == 0.5 and expectation.levels[-1] == 2**-12
    fresh = torch.from_numpy(rng.exponential(size=(40_000, 2)) * [1.0, 100.0])
    p_value = expectation.p_value(fresh)
    for level in (0.5, 0.1, 0.01, 0.002):
        share = float((p_value <= level).double().mean())
        assert 0.25 * level < share < 1.15 * level + 0.001
    least = 2 * 2**-12
    strange = torch.tensor([[50.0, 0.0], [0.0, 5000.0], [float("nan"), 0.0], [0.0, torch.inf]])
    torch.testing.assert_close(expectation.p_value(strange), torch.full((4,), least))
    assert expectation.p_value(torch.zeros(1, 2)) == 1.0


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_few_errors_give_few_levels(count: int) -> None:
    expectation = UsualErrors.from_errors(np.arange(2.0 * count).reshape(-1, 2))
    assert expectation.levels[-1] >= 1 / (count + 1)  # the finest that so few errors support
    again = UsualErrors(**{"levels": expectation.levels, "limits": expectation.limits})
    assert again == expectation


def test_an_object_that_does_not_move_as_expected_has_an_error_of_its_own() -> None:
    model, _, _ = load_checkpoint("pusht")
    pose = torch.tensor(
        [[[0.0, 0.0, 1.0, 0.0, 5.0, 5.0]]]
    )  # position and heading of the block, position of the pusher

    def at(x: float) -> Trajectory:
        z = pose.clone()
        z[..., 0] = x
        return Trajectory(z, torch.zeros(1, len(model.proprio_std)))

    for seen, unmoved in ((0.0, True), (0.9, True), (1.1, False), (3.0, False)):
        latents, proprio, still = squared_errors(model, at(2.0), at(seen), pose)[0].tolist()
        assert latents > 0 and proprio == 0
        assert still == (latents if unmoved else 0.0)


def test_scores_rank_errors_beyond_the_finest_level() -> None:
    usual = np.random.default_rng(0).exponential(size=(1000, 3))
    usual[:, 2] *= usual[:, 0] > 2  # mostly 0
    expectation = UsualErrors.from_errors(usual)
    strange = torch.tensor([[1.0, 0.1, 0.0], [1.1, 0.1, 0.0], [1.1, 5.0, 0.0], [1.1, 5.0, 99.0]])
    scores = expectation.score(strange).tolist()
    assert scores == sorted(scores) and len(set(scores)) == 4
