"""The uncertainty of a measured proportion, and the spread of a few runs."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

INTERVAL_METHOD = "Clopper–Pearson, two-sided, 95%"
_TAIL = 0.025


@dataclass(frozen=True)
class Proportion:
    """A share of `n` examples with its 95% interval (all are fractions, not percent)."""

    value: float
    n: int
    ci95: tuple[float, float]

    def to_json(self) -> dict[str, float | int | list[float]]:
        """Return its form in metrics.json."""
        return {"value": self.value, "n": self.n, "ci95": list(self.ci95)}


def clopper_pearson(
    successes: ArrayLike, n: int, alpha: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a lower and an upper bound on a success probability, each of confidence 1 − α.

    low = B⁻¹(α; k, n−k+1), 0 for k = 0, and high = B⁻¹(1−α; k+1, n−k), 1 for k = n, with B⁻¹ the
    quantile of the beta distribution (Clopper & Pearson, Biometrika 1934).
    """
    k = np.asarray(successes, dtype=np.float64)
    # a beta distribution needs both parameters above 0
    low = np.where(k > 0, beta.ppf(alpha, np.where(k > 0, k, 1), n - k + 1), 0.0)
    high = np.where(k < n, beta.ppf(1 - alpha, k + 1, np.where(k < n, n - k, 1)), 1.0)
    return low, high


def proportion(successes: int, n: int) -> Proportion:
    """Return k/n with its Clopper-Pearson interval.

    low = B⁻¹(α/2; k, n−k+1) and high = B⁻¹(1−α/2; k+1, n−k) with α = 0.05, where B⁻¹ is the
    quantile of the beta distribution (Clopper & Pearson, Biometrika 1934). It covers the true
    proportion with probability at least 95% for every k and n; Wilson's interval does so only on
    average.
    """
    successes, n = operator.index(successes), operator.index(n)
    if n < 1:
        raise ValueError(f"a proportion needs at least one example, got n={n}")
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie in 0..{n}, got {successes}")
    return _with_interval(successes, n)


def expected_proportion(shares: Sequence[float]) -> Proportion:
    """Return the mean of n values in [0, 1], such as probabilities of a correct answer.

    The interval is Clopper-Pearson's for Σ shares successes, as a real number. Values in [0, 1]
    with mean p vary at most as much as a coin with that mean, so it should be conservative. That is
    no proof, but its coverage was at least 95% in every two-valued case that was computed exactly.

    Raises:
        ValueError: there are no values, or one lies outside [0, 1].
    """
    if not shares:
        raise ValueError("a proportion needs at least one example, got none")
    for share in shares:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"every share must lie in [0, 1], got {share}")
    return _with_interval(min(math.fsum(shares), float(len(shares))), len(shares))


def _with_interval(successes: float, n: int) -> Proportion:
    low, high = (float(end) for end in clopper_pearson(successes, n, _TAIL))
    value = successes / n
    # Near 0 and 1 the rounding of the quantile, about 1e-12, can exceed the distance to the value.
    return Proportion(value=value, n=n, ci95=(min(low, value), max(high, value)))


@dataclass(frozen=True)
class Spread:
    """The mean and the sample standard deviation of several runs."""

    mean: float
    sd: float


def mean_sd(values: Sequence[float]) -> Spread:
    """Return the mean x̄ = Σxᵢ/n and the standard deviation s = √(Σ(xᵢ−x̄)²/(n−1)).

    Raises:
        ValueError: there are fewer than two values, or one is not finite.
    """
    if len(values) < 2:
        raise ValueError(f"a standard deviation needs at least two values, got {len(values)}")
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"every value must be finite, got {value}")
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Spread(mean=mean, sd=math.sqrt(variance))
