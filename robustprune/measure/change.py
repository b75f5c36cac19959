"""What changes between two networks on the same examples: measure by measure, with paired tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import norm

from robustprune.measure.comparison import holm
from robustprune.measure.paired import OnExamples, OnScores, Raw, compared

#: the level of all claims together, and the power at which `Change.smallest` is found
ALPHA, POWER = 0.05, 0.8


@dataclass(frozen=True, repr=False)
class Change:
    """How a measure changes from the dense to the compressed network.

    Attributes:
        name, unit, better: as in `OnExamples`.
        n: the number of examples (for an AUROC, of both kinds).
        dense, compressed: the values of the two networks.
        ci95: the 95% interval of the difference, compressed − dense.
        se: the standard error of the difference (of a share: if there is no difference).
        p: the two-sided p-value, and `adjusted` by Holm's method for all measures together.
        smallest: the smallest difference that this number of examples would have shown with a
            probability of 80%; None where they are too few to show any, or where nothing differs,
            so that the spread of a difference is not known.
    """

    name: str
    unit: str
    better: int
    n: int
    dense: float
    compressed: float
    ci95: tuple[float, float]
    se: float
    p: float
    adjusted: float
    smallest: float | None

    @property
    def difference(self) -> float:
        """The value of the compressed network minus that of the dense one."""
        return self.compressed - self.dense

    @property
    def harm(self) -> float:
        """By how much the compressed network is worse; negative where it is better."""
        return -self.better * self.difference

    @property
    def shown(self) -> bool:
        """Whether there is a difference, at a level of 5% for all measures together."""
        return self.adjusted <= ALPHA

    @property
    def verdict(self) -> str:
        """worse, better, or no difference shown."""
        if not self.shown:
            return "no difference shown"
        return "worse" if self.harm > 0 else "better"

    @property
    def same(self) -> bool:
        """Whether it is the same on these examples, so that no spread of a difference is known."""
        return self.smallest is None and self.se == 0 and abs(self.difference) < 1e-12

    def __repr__(self) -> str:
        low, high = self.ci95
        return (
            f"Change({self.name}: {self.dense:.4g} -> {self.compressed:.4g}, "
            f"{self.difference:+.4g} [{low:+.3g}, {high:+.3g}], p={self.adjusted:.3g}, "
            f"{self.verdict})"
        )


def changes(measures: Sequence[OnExamples | OnScores], *, seed: int = 0) -> tuple[Change, ...]:
    """Compare two networks measure by measure, those that got worse most clearly first.

    Shares of examples are compared by McNemar's exact test and a paired bootstrap, AUROC by
    DeLong's test. For a mean T, such as a loss, the interval is a paired percentile bootstrap over
    examples (Efron 1979), and the p-value is of a swap test: the values of the two networks are
    swapped on each example with probability ½, and p = (1 + #{|T*| ≥ |T|}) / (1 + R) (Fisher's
    randomisation test for pairs, 1935). For a function of several means, such as ECE, interval and
    p-value are of the normal distribution with the standard error of the bootstrap, because
    percentiles of ECE are biased by resampling, and swapping two networks that err in opposite
    directions makes both better than they are. With fewer than ten examples, the intervals of both
    kinds, and the p-value of the second, are of Student's t with n − 1 degrees of freedom. No
    p-value is below 2^(1−n), which is that of n pairs that all change alike in an exact test (for
    AUROC, n of both kinds). All p-values are corrected by Holm's method.

    The smallest difference that would have been shown is (z_{1−α/2k} + z_{0.8}) · se, k the number
    of measures: the first step of Holm's method, with a power of 80%. For a share it is also at
    least the smallest count with which the exact test can be significant.

    Order: by (how much worse)/se, so that measures in different units can be ordered.

    Raises:
        ValueError: there are no measures, the two sides of one do not fit, or there is a single
            example of one that is no share of examples.
    """
    if not measures:
        raise ValueError("there are no measures to compare")
    raw = compared(measures, seed)
    adjusted, number = holm([one.p for one in raw]), len(raw)
    found = [
        Change(
            m.name, m.unit, m.better, r.n, r.dense, r.compressed, r.ci95, r.se, r.p, p,
            _smallest(r, number, m.unit),
        )
        for m, r, p in zip(measures, raw, adjusted, strict=True)
    ]  # fmt: skip
    return tuple(sorted(found, key=_better_by))


def _better_by(one: Change) -> float:
    """Return by how many standard errors it got better."""
    if one.se > 0:
        return -one.harm / one.se
    return 0.0 if one.harm == 0 else math.copysign(math.inf, -one.harm)


def _smallest(raw: Raw, number: int, unit: str) -> float | None:
    if raw.least > ALPHA / number:
        return None  # even if every example had changed in the same direction
    found = float(norm.ppf(1 - ALPHA / (2 * number)) + norm.ppf(POWER)) * raw.se
    if raw.step:  # 2^(1−m) ≤ α/k for m examples that all differ in one direction
        found = max(found, math.ceil(1 + math.log2(number / ALPHA)) * raw.step)
    return None if found == 0 else min(found, 1.0) if unit == "share" else found
