"""Intervals: bootstrap over prompts, because tokens and samples of one prompt are not independent."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap

N_RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap interval over `n` prompts or documents; no interval below 2."""

    value: float
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """The four fields as plain values."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def _identity(values: Any) -> Any:
    return values


def ratio_estimate(
    numerator: Any, denominator: Any, *, seed: int, transform: Callable[[Any], Any] = _identity
) -> Estimate:
    """`transform(sum(numerator) / sum(denominator))` with an interval over clusters.

    Args:
        numerator: [n] one sum per cluster (a prompt's log-likelihood, its count of toxic samples).
        denominator: [n] what it is a sum over (its tokens, its samples).
        seed: of the resampling.
        transform: applied to the ratio, such as `np.exp` for a perplexity.
    """
    top, bottom = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)

    def statistic(a: Any, b: Any, axis: int = -1) -> Any:
        return transform(a.sum(axis) / b.sum(axis))

    value = float(statistic(top, bottom))
    n = len(top)
    if n < 2:
        return Estimate(value, None, None, n)
    result = bootstrap(
        (top, bottom),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=N_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return Estimate(value, float(interval.low), float(interval.high), n)


def mean_estimate(values: Any, *, seed: int) -> Estimate:
    """The mean of one value per cluster, with its interval."""
    values = np.asarray(values, dtype=float)
    return ratio_estimate(values, np.ones_like(values), seed=seed)
