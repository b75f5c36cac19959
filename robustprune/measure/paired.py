"""How one measure of two networks is compared on the same examples, before any correction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from scipy.stats import norm, t
from torch import Tensor

from robustprune.measure.auroc import auroc, paired_auroc
from robustprune.measure.comparison import exact_difference, least_p, mcnemar, paired_bootstrap
from robustprune.measure.resamples import bootstrap, swaps

#: with fewer examples the bootstrap is too narrow, and its standard error too small
FEW = 10


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


@dataclass(frozen=True)
class Raw:
    """A comparison before the correction.

    Attributes:
        least: the smallest p-value that so many examples can give; an exact test has it where all
            of them change in the same direction.
        step: the smallest difference of two shares, 1/n; 0 for other measures.
    """

    n: int
    dense: float
    compressed: float
    ci95: tuple[float, float]
    se: float
    p: float
    least: float
    step: float = 0.0


def compared(measures: Sequence[OnExamples | OnScores], seed: int) -> list[Raw]:
    """Compare two networks measure by measure, see `change.changes`.

    Raises:
        ValueError: the two sides of a measure do not fit, or there is a single example, of which
            only a share can be compared.
    """
    found: dict[int, Raw] = {}
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
        elif len(one.dense) < 2:
            raise ValueError(f"{one.name} needs at least two examples to be compared, got one")
        else:
            together.setdefault(len(one.dense), []).append(place)
    for places in together.values():
        some = [one for p in places if isinstance(one := measures[p], OnExamples)]
        found.update(zip(places, _resampled(some, seed), strict=True))
    return [found[place] for place in range(len(measures))]


def _share(one: OnExamples) -> Raw:
    before, after = (part.flatten().bool().tolist() for part in (one.dense, one.compressed))
    test, n = mcnemar(before, after), len(before)
    apart = test.better + test.worse
    # few examples beside the most frequent kind make resamples too alike
    most = max(test.better, test.worse, n - apart)
    interval = paired_bootstrap if n - most >= 10 else exact_difference
    return Raw(
        n,
        sum(before) / n,
        sum(after) / n,
        interval(test.better, test.worse, n),
        math.sqrt(apart) / n,
        test.p,
        least_p(n),
        1 / n,
    )


def _scores(one: OnScores) -> Raw:
    test, n = paired_auroc(one.dense, one.compressed), sum(map(len, one.dense))
    return Raw(
        n,
        auroc(*one.dense),
        auroc(*one.compressed),
        test.interval,
        test.se,
        test.p,
        least_p(n),
    )


def _resampled(some: Sequence[OnExamples], seed: int) -> list[Raw]:
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
        raw = judge(n, before, after, drawn[place], swapped[place])
        found.append(_of_few(raw, drawn[place], one) if n < FEW else raw)
    return found


def _of_mean(n: int, before: float, after: float, drawn: Tensor, swapped: Tensor) -> Raw:
    low, high = drawn.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    # sums in another order differ in their last bits
    extreme = swapped.abs() >= abs(after - before) - 1e-12
    p = (1 + int(extreme.sum())) / (1 + len(swapped))
    return Raw(n, before, after, (low, high), _spread(drawn), max(p, least_p(n)), least_p(n))


def _of_several(n: int, before: float, after: float, drawn: Tensor, _: Tensor) -> Raw:
    se, apart = _spread(drawn), after - before
    wide = float(norm.ppf(0.975)) * se
    p = float(2 * norm.sf(abs(apart) / se)) if se > 0 else 1.0
    interval = apart - wide, apart + wide
    return Raw(n, before, after, interval, se, max(p, least_p(n)), least_p(n))


def _of_few(raw: Raw, drawn: Tensor, one: OnExamples) -> Raw:
    """Take Student's t with n − 1 degrees of freedom for the interval, and of several means also
    for the p-value."""
    apart, freedom = raw.compressed - raw.dense, raw.n - 1
    se = _spread(drawn) * math.sqrt(raw.n / freedom)
    wide = float(t.ppf(0.975, freedom)) * se
    low, high = apart - wide, apart + wide
    if one.unit == "share":
        low, high = max(low, -1.0), min(high, 1.0)
    p = raw.p
    if one.combine is not _first:
        p = max(float(2 * t.sf(abs(apart) / se, freedom)) if se > 0 else 1.0, raw.least)
    return replace(raw, ci95=(low, high), se=se, p=p)


def _spread(drawn: Tensor) -> float:
    """Return the standard deviation; 0 where the values differ in their last bits alone."""
    found = float(drawn.std())
    return found if found > 1e-12 * max(1.0, float(drawn.abs().max())) else 0.0


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
