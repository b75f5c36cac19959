"""Compare methods over seeds and data sets: paired tests, intervals, average ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, friedmanchisquare, rankdata, studentized_range, wilcoxon

from robustprune.measure.statistics import clopper_pearson

#: the largest number of pairs for which all 2^n sign flips are counted
_EXACT = 14


@dataclass(frozen=True)
class PairedTest:
    """The result of `paired_wilcoxon` and of `mcnemar`.

    Attributes:
        difference: the mean of second − first.
        p: the two-sided p-value.
        better, worse: the number of pairs in which the second is higher, or lower; for `mcnemar`,
            those in which only the second, or only the first, is correct.
    """

    difference: float
    p: float
    better: int
    worse: int


def paired_wilcoxon(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Test by Wilcoxon's signed-rank test that second − first is symmetric about zero, two-sided.

    T = |Σ_i sign(d_i) rank|d_i||, where equal |d_i| share their mean rank and zeros are left out
    (Wilcoxon 1945). For up to 14 pairs its distribution over all 2^n signs is counted, with ties;
    for more it is scipy's normal approximation. n pairs cannot give a p-value below 2^(1−n).

    Raises:
        ValueError: lengths differ, there are no pairs, or a value is not finite.
    """
    differences = _differences(first, second)
    moved = differences[differences != 0]
    better, worse = int((moved > 0).sum()), int((moved < 0).sum())
    if len(moved) == 0:
        p = 1.0
    elif len(moved) <= _EXACT:
        ranks = rankdata(np.abs(moved))
        signs = 1 - 2 * ((np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved))) & 1)
        observed = abs(float(np.sign(moved) @ ranks))
        p = float((np.abs(signs @ ranks) >= observed - 1e-9).mean())
    else:
        p = float(wilcoxon(moved, method="approx").pvalue)
    return PairedTest(float(differences.mean()), p, better, worse)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> PairedTest:
    """Test by McNemar's exact test that two networks are correct equally often, two-sided.

    Only the n examples count on which exactly one network is correct. If both are equally good, the
    number b that the second wins is binomial: p = min(1, 2 P(Bin(n, ½) ≤ min(b, n − b))) (McNemar,
    Psychometrika 1947). Intervals of the two shares can't replace the test: on the same examples
    they rise and fall together, and may overlap however clear the difference is.

    Args:
        first, second: whether each is correct, for the same examples in the same order.

    Raises:
        ValueError: lengths differ, there are no pairs, or a value is not 0 or 1.
    """
    if not set(first) | set(second) <= {0, 1}:
        raise ValueError("every example must be right (1) or wrong (0)")
    differences = _differences([float(one) for one in first], [float(two) for two in second])
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return PairedTest(float(differences.mean()), p, better, worse)


def least_p(n: int) -> float:
    """Return 2^(1−n), the smallest two-sided p-value of an exact test of n pairs: that of n signs
    which are all alike."""
    return float(2.0 ** (1 - n))


def paired_bootstrap(
    better: int, worse: int, n: int, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of the difference of two networks' accuracies on the same n
    examples, from resampled examples (Efron 1979).

    A resampled set has (B, C) ~ Multinomial(n; better/n, worse/n) examples on which only the
    second, or only the first, network is correct. Its difference is (B − C)/n.

    Args:
        better, worse: the number of examples on which only the second, or only the first, network
            is correct.

    Raises:
        ValueError: a count is negative, they are more than n, or `level` is outside (0, 1).
    """
    _check_counts(better, worse, n)
    _check_level(level)
    chances = [better / n, worse / n, 1 - (better + worse) / n]
    counts = np.random.default_rng(seed).multinomial(n, chances, size=resamples)
    return _central((counts[:, 0] - counts[:, 1]) / n, level)


def exact_difference(
    better: int, worse: int, n: int, *, level: float = 0.95
) -> tuple[float, float]:
    """Return an interval of the difference of two networks' accuracies on the same n examples whose
    coverage is at least `level` for every n.

        [low(better) − high(worse), high(better) − low(worse)]

    low and high are the Clopper-Pearson bounds of each share with half of the failure probability,
    so that both hold together (Bonferroni). It is wider than `paired_bootstrap`, which needs more
    than a few differing examples, and wider than McNemar's test would need.

    Raises:
        ValueError: a count is negative, they are more than n, or `level` is outside (0, 1).
    """
    _check_counts(better, worse, n)
    _check_level(level)
    (low, other_low), (high, other_high) = clopper_pearson([better, worse], n, (1 - level) / 4)
    return float(low - other_high), float(high - other_low)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple comparisons: p̃_(i) = max_{j≤i} min(1, (m−j+1) p_(j)) in
    ascending order (Holm 1979). The probability of any false claim stays below the level."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of the mean, from quantiles of resampled means (Efron 1979).

    With ten seeds it is somewhat too narrow. One value has no interval.

    Raises:
        ValueError: there are fewer than two values, one is not finite, or `level` is outside (0,
            1).
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < 2 or not np.isfinite(sample).all():
        raise ValueError(f"an interval needs at least two finite values, got {list(values)}")
    _check_level(level)
    drawn = np.random.default_rng(seed).integers(len(sample), size=(resamples, len(sample)))
    return _central(sample[drawn].mean(axis=1), level)


def _check_counts(better: int, worse: int, n: int) -> None:
    if min(better, worse) < 0 or n < 1 or better + worse > n:
        raise ValueError(f"better={better} and worse={worse} must be counts of n={n} examples")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level={level} must be in (0, 1)")


def _central(resampled: np.ndarray, level: float) -> tuple[float, float]:
    """Return the quantiles between which the middle share `level` of the values lies."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Ranking:
    """The result of `average_ranks`.

    Attributes:
        ranks: method -> average rank over the blocks, where 1 is best, sorted by rank.
        p: the p-value of Friedman's test that all methods are equal.
        critical: Nemenyi's critical difference of two average ranks.
        blocks: N, the number of blocks.
    """

    ranks: dict[str, float]
    p: float
    critical: float
    blocks: int


def average_ranks(results: Mapping[str, Sequence[float]], *, alpha: float = 0.05) -> Ranking:
    """Compute Friedman's test and Nemenyi's critical difference (Demšar, JMLR 2006, Sec. 3.2.2).

        CD = q_α √(k (k+1) / (6N)),  q_α = studentized range quantile / √2

    Args:
        results: method -> its N results, block by block, where higher is better. Blocks should be
            independent, such as data sets, and not seeds on one data set.
        alpha: the level of the critical difference.

    Raises:
        ValueError: there are fewer than three methods or two blocks, lengths differ, or a result is
            not finite.
    """
    table = np.asarray([list(values) for values in results.values()], dtype=np.float64)
    if table.ndim != 2 or len(table) < 3 or table.shape[1] < 2 or not np.isfinite(table).all():
        raise ValueError(
            "ranks need at least three methods with the same number (2 or more) of finite results; "
            f"got {[len(values) for values in results.values()]} results"
        )
    methods, blocks = table.shape
    ranks = rankdata(-table, axis=0).mean(axis=1)
    alike = bool((table == table[0]).all())
    p = 1.0 if alike else float(friedmanchisquare(*table).pvalue)
    quantile = float(studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)
    critical = quantile * math.sqrt(methods * (methods + 1) / (6 * blocks))
    named = sorted(zip(results, ranks.tolist(), strict=True), key=lambda item: item[1])
    return Ranking(dict(named), p, critical, blocks)


def groups(ranking: Ranking) -> list[tuple[str, ...]]:
    """Return the largest sets of neighbours in rank whose ranks all lie within the critical
    difference, which are the bars of its diagram. A single method is no group."""
    names, ranks = list(ranking.ranks), list(ranking.ranks.values())
    found: list[tuple[str, ...]] = []
    furthest = 0
    for start in range(len(names)):
        end = sum(rank - ranks[start] <= ranking.critical for rank in ranks)
        if end - start > 1 and end > furthest:
            found.append(tuple(names[start:end]))
            furthest = end
    return found


def _differences(first: Sequence[float], second: Sequence[float]) -> np.ndarray:
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(
            f"pairs need as many values on both sides, got {len(first)} and {len(second)}"
        )
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    if not np.isfinite(differences).all():
        raise ValueError("every value must be finite")
    # 0.85 − 0.84 and 0.86 − 0.85 differ in the last bit, which would break their tie
    return np.round(differences, 12)
