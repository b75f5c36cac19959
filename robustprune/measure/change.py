"""What changes between two networks on the same examples: measure by measure, with paired tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import norm
from torch import Tensor

from robustprune.measure.auroc import auroc, paired_auroc
from robustprune.measure.comparison import exact_difference, holm, mcnemar, paired_bootstrap
from robustprune.measure.resamples import bootstrap, swaps

#: the level of all claims together, and the power at which `Change.smallest` is found
ALPHA, POWER = 0.05, 0.8


def _first(means: Tensor) -> Tensor:
    return means[:, 0]


@dataclass(frozen=True)
class OnExamples:
    """A measure of two networks that is a function of means over N examples.

    Attributes:
        name: its name in tables.
        dense, compressed: (N, K) float64, what each example adds to the means; (N,) for K = 1.
        better: 1 if a higher value is better, -1 if a lower one is.
        unit: "share" of values between 0 and 1, or another name such as "nats".
        combine: (R, K) means -> (R,) values; None for the mean itself.
    """

    name: str
    dense: Tensor
    compressed: Tensor
    better: int
    unit: str = "share"
    combine: Callable[[Tensor], Tensor] = _first

    @property
    def binary(self) -> bool:
        """Whether it is a share of examples, so that McNemar's exact test applies."""
        values = torch.cat([self.dense, self.compressed])
        return self.combine is _first and bool(((values == 0) | (values == 1)).all())


@dataclass(frozen=True)
class OnScores:
    """A measure of two networks that is an AUROC.

    Attributes:
        dense, compressed: (positive scores (N,), negative scores (M,)), of the same examples.
    """

    name: str
    dense: tuple[Tensor, Tensor]
    compressed: tuple[Tensor, Tensor]
    better: int
    unit: str = "share"


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
            probability of 80%.
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
    smallest: float

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

    def __repr__(self) -> str:
        low, high = self.ci95
        return (
            f"Change({self.name}: {self.dense:.4g} -> {self.compressed:.4g}, "
            f"{self.difference:+.4g} [{low:+.3g}, {high:+.3g}], p={self.adjusted:.3g}, "
            f"{self.verdict})"
        )


@dataclass(frozen=True)
class _Raw:
    """A comparison before the correction; `least` is the number of pairs below which no exact test
    can be significant, as a function of the level."""

    n: int
    dense: float
    compressed: float
    ci95: tuple[float, float]
    se: float
    p: float
    exact: bool = False


def changes(measures: Sequence[OnExamples | OnScores], *, seed: int = 0) -> tuple[Change, ...]:
    """Compare two networks measure by measure, those that got worse most clearly first.

    Shares of examples are compared by McNemar's exact test and a paired bootstrap, AUROC by
    DeLong's test. For a mean T, such as a loss, the interval is a paired percentile bootstrap over
    examples (Efron 1979), and the p-value is of a swap test: the values of the two networks are
    swapped on each example with probability ½, and p = (1 + #{|T*| ≥ |T|}) / (1 + R) (Fisher's
    randomisation test for pairs, 1935). For a function of several means, such as ECE, interval and
    p-value are of the normal distribution with the standard error of the bootstrap, because
    percentiles of ECE are biased by resampling, and swapping two networks that err in opposite
    directions makes both better than they are. All p-values are corrected by Holm's method.

    The smallest difference that would have been shown is (z_{1−α/2k} + z_{0.8}) · se, k the number
    of measures: the first step of Holm's method, with a power of 80%. For a share it is also at
    least the smallest count with which the exact test can be significant.

    Order: by (how much worse)/se, so that measures in different units can be ordered.

    Raises:
        ValueError: there are no measures, or the two sides of one do not fit.
    """
    if not measures:
        raise ValueError("there are no measures to compare")
    raw = _compared(measures, seed)
    adjusted, number = holm([one.p for one in raw]), len(raw)
    found = [
        Change(
            m.name, m.unit, m.better, r.n, r.dense, r.compressed, r.ci95, r.se, r.p, p,
            _smallest(r, number),
        )
        for m, r, p in zip(measures, raw, adjusted, strict=True)
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda one: -one.harm / one.se if one.se else 0.0))


def _smallest(raw: _Raw, number: int) -> float:
    found = float(norm.ppf(1 - ALPHA / (2 * number)) + norm.ppf(POWER)) * raw.se
    if raw.exact:  # 2^(1−m) ≤ α/k for m examples that all differ in one direction
        found = max(found, math.ceil(1 + math.log2(number / ALPHA)) / raw.n)
    return found


def _compared(measures: Sequence[OnExamples | OnScores], seed: int) -> list[_Raw]:
    found: dict[int, _Raw] = {}
    together: dict[int, list[int]] = {}
    for place, one in enumerate(measures):
        if isinstance(one, OnScores):
            found[place] = _scores(one)
            continue
        if one.dense.shape != one.compressed.shape or len(one.dense) == 0:
            raise ValueError(
                f"{one.name}: pairs need the same examples, got {tuple(one.dense.shape)} and "
                f"{tuple(one.compressed.shape)}"
            )
        if not bool(torch.isfinite(one.dense).all() and torch.isfinite(one.compressed).all()):
            raise ValueError(f"{one.name} is not finite for some examples")
        if one.binary:
            found[place] = _share(one)
        else:
            together.setdefault(len(one.dense), []).append(place)
    for places in together.values():
        some = [one for p in places if isinstance(one := measures[p], OnExamples)]
        found.update(zip(places, _resampled(some, seed), strict=True))
    return [found[place] for place in range(len(measures))]


def _share(one: OnExamples) -> _Raw:
    before, after = (part.flatten().bool().tolist() for part in (one.dense, one.compressed))
    test, n = mcnemar(before, after), len(before)
    apart = test.better + test.worse
    # few examples beside the most frequent kind make resamples too alike
    most = max(test.better, test.worse, n - apart)
    interval = paired_bootstrap if n - most >= 10 else exact_difference
    return _Raw(
        n,
        sum(before) / n,
        sum(after) / n,
        interval(test.better, test.worse, n),
        math.sqrt(apart) / n,
        test.p,
        exact=True,
    )


def _scores(one: OnScores) -> _Raw:
    test = paired_auroc(one.dense, one.compressed)
    return _Raw(
        sum(map(len, one.dense)),
        auroc(*one.dense),
        auroc(*one.compressed),
        test.interval,
        test.se,
        test.p,
    )


def _resampled(some: Sequence[OnExamples], seed: int) -> list[_Raw]:
    """Compare measures on the same examples; all use the same resamples."""
    first, second = (
        torch.cat([part.double().view(len(part), -1) for part in parts], dim=1)
        for parts in ([one.dense for one in some], [one.compressed for one in some])
    )
    widths = [one.dense.reshape(len(one.dense), -1).shape[1] for one in some]
    n = len(first)
    drawn = _differences(some, widths, bootstrap(first, second, seed))
    swapped = _differences(some, widths, swaps(first, second, seed))
    found = []
    for place, (one, a, b) in enumerate(
        zip(some, torch.split(first, widths, 1), torch.split(second, widths, 1), strict=True)
    ):
        before, after = (float(one.combine(part.mean(0, keepdim=True))) for part in (a, b))
        judge = _of_mean if one.combine is _first else _of_several
        found.append(judge(n, before, after, drawn[place], swapped[place]))
    return found


def _of_mean(n: int, before: float, after: float, drawn: Tensor, swapped: Tensor) -> _Raw:
    low, high = drawn.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    # sums in another order differ in their last bits
    extreme = swapped.abs() >= abs(after - before) - 1e-12
    p = (1 + int(extreme.sum())) / (1 + len(swapped))
    return _Raw(n, before, after, (low, high), float(drawn.std()), p)


def _of_several(n: int, before: float, after: float, drawn: Tensor, _: Tensor) -> _Raw:
    se, apart = float(drawn.std()), after - before
    wide = float(norm.ppf(0.975)) * se
    p = float(2 * norm.sf(abs(apart) / se)) if se > 0 else 1.0
    return _Raw(n, before, after, (apart - wide, apart + wide), se, p)


def _differences(
    some: Sequence[OnExamples], widths: list[int], pairs: Iterator[tuple[Tensor, Tensor]]
) -> list[Tensor]:
    """Return for each measure the difference (R,) in every resample."""
    found: list[list[Tensor]] = [[] for _ in some]
    for first, second in pairs:
        for place, (one, a, b) in enumerate(
            zip(some, torch.split(first, widths, 1), torch.split(second, widths, 1), strict=True)
        ):
            found[place].append(one.combine(b) - one.combine(a))
    return [torch.cat(parts) for parts in found]
