"""Intervals: bootstrap over prompts, because tokens and samples of one prompt are not independent."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap

N_RESAMPLES = 2000
_AT_ONCE = 2**19
"""Clusters x resamples that are drawn together, the same numbers in any batches: else memory grows with prompts."""
_ENOUGH = 10
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
        batch=max(1, _AT_ONCE // n),
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


def resampled(n: int, rng: np.random.Generator) -> Any:
    """How often each of `n` clusters is drawn, [resample, n]."""
    return rng.multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES)


def interval(values: Any) -> tuple[float, float]:
    """The percentile interval of resampled values."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return float(low), float(high)


def ratio_difference(first: tuple[Any, Any], second: tuple[Any, Any], *, seed: int) -> Estimate:
    """The difference of two ratios of sums over independent clusters; `n` is that of the smaller sample.

    Args:
        first: numerator [n] and denominator [n].
        second: the same of the other sample.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    values, drawn, sizes = [], [], []
    for top, bottom in (first, second):
        top, bottom = np.asarray(top, dtype=float), np.asarray(bottom, dtype=float)
        n = len(top)
        counts = resampled(n, rng)
        values.append(top.sum() / bottom.sum())
        drawn.append((counts @ top) / (counts @ bottom))
        sizes.append(n)
    value = float(values[0] - values[1])
    if min(sizes) < 2:
        return Estimate(value, None, None, min(sizes))
    return Estimate(value, *interval(drawn[0] - drawn[1]), min(sizes))


def mean_estimates(values: Any, *, seed: int) -> list[Estimate]:
    """The mean of each column with its interval, all from the same resampled clusters.

    Args:
        values: [n, column] one row per cluster; NaN where a cluster has no value.
        seed: of the resampling.
    """
    values = np.asarray(values, dtype=float)
    there = ~np.isnan(values)
    n, count = len(values), there.sum(0)
    drawn = resampled(n, np.random.default_rng(seed))
    with np.errstate(invalid="ignore"):
        means = (drawn @ np.where(there, values, 0.0)) / (drawn @ there)
    found = []
    for column in range(values.shape[1]):
        some = values[there[:, column], column]
        value = float(some.mean()) if len(some) else float("nan")
        low = high = None
        if len(some) > 1:
            kept = means[~np.isnan(means[:, column]), column]
            low, high = interval(kept)
        found.append(Estimate(value, low, high, int(count[column])))
    return found


def max_t(values: Any, *, seed: int) -> tuple[Any, Any]:
    """A t statistic for each column's mean, and its p-value corrected for looking at all columns.

    Westfall and Young's max-T with random signs: under the null hypothesis a cluster's effects are as likely to have
    the opposite sign, all at once, which keeps their dependence. The p-value is the share of sign patterns whose
    largest |t| over all columns reaches the column's own |t|. All patterns are taken where they are few.

    Args:
        values: [n, column] one row per cluster; NaN where a cluster has no value.
        seed: of the signs.

    Returns:
        t [column], and p [column], two-sided; NaN for columns of fewer than ten clusters, or of fewer than all where
        there are fewer than ten.
    """
    values = np.asarray(values, dtype=float)
    there = ~np.isnan(values)
    filled, count = np.where(there, values, 0.0), there.sum(0)
    n = len(values)
    if 2**n <= N_RESAMPLES:
        signs = 1 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(N_RESAMPLES, n))
        signs[0] = 1
    squares = (filled**2).sum(0)

    def statistic(flips: Any) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = (flips @ filled) / count
            error = np.sqrt(np.maximum(squares / count - mean**2, 0) / (count - 1))
            # A column that never varies, as of cells that are zero for certain, says nothing.
            return np.where(error > 1e-9 * np.abs(mean), mean / error, 0.0)

    t = statistic(np.ones((1, n)))[0]
    # Of two or three clusters, some pattern of signs makes them nearly equal and |t| huge, whatever they are: a rare
    # column would drown all others.
    usable = count >= max(2, min(_ENOUGH, n))
    if not usable.any():
        return np.full(t.shape, np.nan), np.full(t.shape, np.nan)
    largest = np.abs(statistic(signs)[:, usable]).max(1)
    p = (largest[:, None] >= np.abs(t)[None] * (1 - 1e-9)).mean(0)
    return np.where(usable, t, np.nan), np.where(usable, p, np.nan)
