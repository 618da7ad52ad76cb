"""Confidence intervals and rank correlation: every interval in this project comes from here.

scipy.stats takes most of a second to import, so the functions that need it import it themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 10_000


def rate_interval(successes: NDArray[Any]) -> dict[str, float]:
    """The share of successes with its Wilson (1927) 95 % interval.

    Args:
        successes: bool ``[n]``.

    Returns:
        ``rate``, ``low`` and ``high``.
    """
    from scipy import stats

    count, total = int(np.sum(successes)), len(successes)
    interval = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return {"rate": count / total, "low": float(interval.low), "high": float(interval.high)}


def mean_interval(values: NDArray[Any]) -> dict[str, float]:
    """The mean of values ``[n]`` with its percentile-bootstrap 95 % interval.

    Returns:
        ``mean``, ``low`` and ``high``; all three are the same where n is 1.
    """
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "low": mean, "high": mean}
    interval = stats.bootstrap(
        (np.asarray(values, np.float64),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return {"mean": mean, "low": float(interval.low), "high": float(interval.high)}


def spearman(one: ArrayLike, other: ArrayLike) -> float:
    """Spearman's rank correlation of two samples ``[n]``."""
    from scipy import stats

    return float(stats.spearmanr(one, other).statistic)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The median, the 99th percentile and the maximum."""
    found = np.percentile(values, (50, 99, 100))
    return {name: round(float(x), 3) for name, x in zip(("p50", "p99", "max"), found, strict=True)}


def in_percent(interval: Mapping[str, float]) -> str:
    """A `rate_interval`, or a `mean_interval` of fractions, as ``94.0 % (90.1 to 96.4)``."""
    value = interval["rate"] if "rate" in interval else interval["mean"]
    return f"{100 * value:.1f} % ({100 * interval['low']:.1f} to {100 * interval['high']:.1f})"


def with_interval(interval: Mapping[str, float]) -> str:
    """A `mean_interval` as ``1.98 (1.87 to 2.10)``."""
    return "{mean:.2f} ({low:.2f} to {high:.2f})".format(**interval)
