"""The area under the ROC curve, and the paired difference of two of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from robustprune.measure.comparison import least_p


@dataclass(frozen=True)
class PairedAuroc:
    """The result of `paired_auroc`.

    Attributes:
        difference: second − first.
        interval: its interval.
        p: the two-sided p-value.
        se: the standard error of the difference.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    se: float


def auroc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Return P(s⁺ > s⁻) + ½ P(s⁺ = s⁻), the area under the ROC curve, from scores (N,) and (M,).

    Mann & Whitney's U/(NM) (1947); ½ is chance.

    Raises:
        ValueError: one side has no scores, or a score is NaN.
    """
    return float(_placements(positive, negative)[0].mean())


def paired_auroc(
    first: tuple[ArrayLike, ArrayLike],
    second: tuple[ArrayLike, ArrayLike],
    *,
    level: float = 0.95,
) -> PairedAuroc:
    """Compare the AUROC of two scores of the same N positive and M negative examples.

        var = S(V⁺)/N + S(V⁻)/M,  V⁺_i = share of negatives below positive i, V⁻_j likewise

    S is the sample variance of the differences of the two scores' placement values, and z =
    difference/√var is compared with the normal distribution (DeLong, DeLong & Clarke-Pearson,
    Biometrics 1988). With few examples it is only approximate; where all placement values change
    alike, var is zero and the interval a point. The p-value is never below 2^(1−N−M), the least
    that an exact test of so many pairs could give.

    Args:
        first, second: (positive scores, negative scores), in the same order of examples.

    Raises:
        ValueError: a side has fewer than two scores, numbers differ, or a score is NaN.
    """
    (up, down), (other_up, other_down) = _placements(*first), _placements(*second)
    if up.shape != other_up.shape or down.shape != other_down.shape:
        raise ValueError("both scores must be of the same positive and negative examples")
    if min(len(up), len(down)) < 2:
        raise ValueError("the comparison needs at least two positive and two negative examples")
    apart, apart_down = other_up - up, other_down - down
    difference = float(apart.mean())
    se = float(np.sqrt(apart.var(ddof=1) / len(up) + apart_down.var(ddof=1) / len(down)))
    se = se if se > 1e-12 else 0.0  # placement values that are alike differ in their last bits
    wide = float(norm.ppf((1 + level) / 2)) * se
    p = float(2 * norm.sf(abs(difference) / se)) if se > 0 else float(difference == 0)
    p = max(p, least_p(len(up) + len(down)))
    interval = max(difference - wide, -1.0), min(difference + wide, 1.0)
    return PairedAuroc(difference, interval, p, se)


def _placements(
    positive: ArrayLike, negative: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of negatives below each positive, and of positives above each negative."""
    up, down = (np.asarray(one, dtype=np.float64).ravel() for one in (positive, negative))
    if not len(up) or not len(down) or np.isnan(up).any() or np.isnan(down).any():
        raise ValueError("AUROC needs at least one score on each side, and none may be NaN")
    ranks = rankdata(np.concatenate([up, down]))
    above = (ranks[: len(up)] - rankdata(up)) / len(down)
    below = 1 - (ranks[len(up) :] - rankdata(down)) / len(up)
    return above, below
