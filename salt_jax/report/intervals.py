"""Means over seeds, with 95 % intervals."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95
# Up to this many values every resample is listed: 6**6 are 46,656.
_LISTED = 6
_RESAMPLES = 20_000

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """The mean of one value per seed. Of a single seed the rest is None."""

    mean: float
    count: int
    error: float | None  # Standard error: sample standard deviation / sqrt(count).
    t: Interval | None
    bootstrap: Interval | None

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Estimate:
        """Returns the estimate from `values`, whose order does not matter.

        Raises:
          ValueError: there are none.
        """
        if not len(values):
            raise ValueError("A mean over seeds needs one value or more, got none.")
        ordered = np.sort(np.asarray(values, float))
        return cls(
            mean=float(ordered.mean()),
            count=len(ordered),
            error=standard_error(ordered) if len(ordered) > 1 else None,
            t=t_interval(ordered),
            bootstrap=bootstrap_interval(ordered),
        )


def standard_error(values: Sequence[float] | np.ndarray) -> float:
    """Returns the standard error of the mean of two or more independent values."""
    return float(np.std(values, ddof=1)) / len(values) ** 0.5


def t_interval(values: Sequence[float] | np.ndarray) -> Interval | None:
    """Returns Student's interval for the mean, with n - 1 degrees of freedom.

    mean -+ t(0.975, n - 1) s / sqrt(n), s the sample standard deviation (Student, The
    probable error of a mean, 1908). It assumes values that are about normal. None for
    one value.
    """
    count = len(values)
    if count < 2:
        return None
    quantile = float(stdtrit(count - 1, 0.5 + CONFIDENCE / 2))
    half = quantile * standard_error(values)
    mean = float(np.mean(values))
    return mean - half, mean + half


def bootstrap_interval(values: Sequence[float] | np.ndarray) -> Interval | None:
    """Returns the percentile interval of the mean over resampled seeds.

    Efron, Bootstrap methods, 1979. It assumes no distribution, and is too narrow for
    few values: of n, its variance is (n - 1) / n of the unbiased one. None for one.
    """
    if len(values) < 2:
        return None
    tail = 0.5 - CONFIDENCE / 2
    means = resampled_means(values)
    low, high = np.quantile(means, (tail, 1 - tail), method="inverted_cdf")
    return float(low), float(high)


def resampled_means(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns the means of resamples: all n**n of up to six values, else 20,000."""
    ordered = np.sort(np.asarray(values, float))
    count = len(ordered)
    if count <= _LISTED:
        drawn = np.array(list(itertools.product(range(count), repeat=count)))
    else:
        drawn = np.random.default_rng(0).integers(count, size=(_RESAMPLES, count))
    return ordered[drawn].mean(axis=1)
