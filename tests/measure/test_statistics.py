"""Confidence intervals against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from worldmodel.measure.statistics import in_percent, mean_interval, rate_interval, spearman


@pytest.mark.parametrize(("count", "total"), [(0, 10), (5, 10), (96, 100), (20, 20)])
def test_a_rate_lies_196_deviations_from_both_ends_of_its_interval(count: int, total: int) -> None:
    interval = rate_interval(np.arange(total) < count)
    assert interval["rate"] == count / total
    for bound in {interval["low"], interval["high"]} - {interval["rate"]}:
        deviation = np.sqrt(bound * (1 - bound) / total)
        assert abs(interval["rate"] - bound) == pytest.approx(1.96 * deviation, rel=1e-4)
    assert interval["low"] <= interval["rate"] <= interval["high"]
    assert interval["high"] - interval["low"] > 0.05


def test_the_interval_of_a_mean_is_that_of_a_normal_distribution_and_repeats() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = mean_interval(values)
    assert interval == mean_interval(values)
    half = 1.96 * values.std() / 20
    assert interval["mean"] == pytest.approx(values.mean())
    assert interval["low"] == pytest.approx(values.mean() - half, abs=0.05)
    assert interval["high"] == pytest.approx(values.mean() + half, abs=0.05)
    assert mean_interval(values[:1])["low"] == mean_interval(values[:1])["high"] == values[0]


def test_rank_correlation_ignores_monotone_changes() -> None:
    values = np.random.default_rng(0).random(20)
    assert spearman(values, np.exp(values)) == pytest.approx(1)
    assert spearman(values, -(values**3)) == pytest.approx(-1)


def test_percent() -> None:
    assert in_percent({"rate": 0.5, "low": 0.25, "high": 0.754}) == "50.0 % (25.0 to 75.4)"
