"""Summarise the run for a decision, in sentences and four figures."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from robustprune.report.paired import Compared, compared, signed
from robustprune.report.records import MetricsRecord, ModelRecord, RunRecord
from robustprune.report.wording import (
    count,
    interval,
    listing,
    norm_name,
    p_value,
    percent,
    share,
    threat_phrase,
)

DENSE_BASELINE = "adversarial"
#: the least p-value at which a difference may be chance
LEVEL = 0.05


@dataclass(frozen=True)
class Line:
    """A line of the summary: what it is about, and a sentence or two."""

    label: str
    text: str
    caution: bool = False


@dataclass(frozen=True)
class Figure:
    """One number with its label and a note."""

    label: str
    value: str
    note: str


def against_dense(run: RunRecord) -> Compared | None:
    """Compare the worst case of the headline model with that of the dense network, on the same
    examples. None if there is no other network, or no answers were stored."""
    dense, headline = run.answers.get(DENSE_BASELINE), run.answers.get(run.metrics.headline)
    if dense is None or headline is None or dense is headline:
        return None
    return compared(dense.worst, headline.worst)


def lines(
    metrics: MetricsRecord,
    *,
    commonest_share: float,
    paired: Compared | None = None,
    constant: Collection[str] = (),
) -> list[Line]:
    """Return the short lines of the summary, at most five.

    Args:
        commonest_share: the accuracy of always giving the most frequent answer, which no attack can
            lower.
        paired: the result of `against_dense`.
        constant: the names of the networks that give one class for every input.
    """
    model = metrics.headline_model
    clean, worst = model.clean, model.worst
    return [
        Line(
            "Size",
            f"The headline network, “{model.title}”, keeps {count(model.kept)} of"
            f" {count(model.total)} weights ({share(model.kept / model.total)}).",
        ),
        Line(
            "Without attack",
            f"It classifies {percent(clean.value)}% of n = {count(clean.n)} test examples"
            f" correctly (95% interval {interval(clean)}).",
        ),
        Line(
            "Under attack",
            f"{percent(worst.value)}% of n = {count(worst.n)} stay correct"
            f" ({interval(worst)}) under every attack run here, within"
            f" {threat_phrase(metrics.threat)}. This is an upper bound on robustness: a stronger"
            f" attack can only lower it.{_constant_answer(model, commonest_share, constant)}",
        ),
        *_comparison(model, metrics.find(DENSE_BASELINE), paired),
        Line("Checks", checks(metrics), caution=bool(failed_checks(metrics))),
    ]


def checks(metrics: MetricsRecord) -> str:
    """Say in one sentence whether the sanity checks of the measurement passed."""
    failed = failed_checks(metrics)
    if not metrics.findings:
        return "No sanity checks of the measurement were recorded for this run."
    if not failed:
        return f"All {len(metrics.findings)} sanity checks of the measurement passed."
    return (
        f"Caution: {len(failed)} of {len(metrics.findings)} sanity checks of the measurement"
        f" failed ({listing(failed)}), so treat the figures with care until that is explained."
    )


def failed_checks(metrics: MetricsRecord) -> list[str]:
    """Return the names of the sanity checks that failed."""
    return [finding.name for finding in metrics.findings if not finding.ok]


def figures(metrics: MetricsRecord, *, paired: Compared | None = None) -> list[Figure]:
    """Return the numbers of the summary, which are shown beside it."""
    model = metrics.headline_model
    shown = [
        Figure(
            "weights kept",
            share(model.kept / model.total),
            f"{count(model.kept)} of {count(model.total)}",
        ),
        Figure("clean accuracy", f"{percent(model.clean.value)}%", interval(model.clean)),
        Figure(
            "worst-case attacked",
            f"{percent(model.worst.value)}%",
            f"{interval(model.worst)}, upper bound",
        ),
    ]
    dense = metrics.find(DENSE_BASELINE)
    if dense is not None and dense is not model:
        points = _points(model, dense)
        value = signed(points) if points else "±0.0"
        note = "points worst-case"
        if paired is not None:
            low, high = (signed(100 * end) for end in paired.interval)
            note += f", paired [{low}, {high}]"
        shown.append(Figure("against dense adversarial", value, note))
    return [*shown, *_nearest(model)]


def _nearest(model: ModelRecord) -> list[Figure]:
    """Return the median of r*, the distance of the nearest adversarial example."""
    found = model.minimal
    if found is None:
        return []
    value = "none found" if found.median is None else f"{found.median:.3g}"
    note = f"median of n = {count(found.n)}, {norm_name(found.norm)}, upper bound"
    return [Figure("nearest adversarial example", value, note)]


def _comparison(
    model: ModelRecord, dense: ModelRecord | None, paired: Compared | None
) -> list[Line]:
    if dense is None or dense is model:
        return []
    points = _points(model, dense)
    direction = "below" if points < 0 else "above"
    distance = f"{abs(points):.1f} points {direction}" if points else "Level with"
    against = f"{distance} “{dense.title}” ({percent(dense.worst.value)}%) under attack"
    if paired is None:
        return [Line("Against dense", f"{against}; the run keeps no answers to compare them by.")]
    test = paired.test
    unclear = "These examples alone do not show which of the two is more robust."
    return [
        Line(
            "Against dense",
            f"{against}. On the same examples only the headline is right on {test.better} and only"
            f" the dense network on {test.worse} (McNemar's exact test: p {p_value(test.p)})."
            + (f" {unclear}" if test.p >= LEVEL else ""),
        )
    ]


def _constant_answer(model: ModelRecord, commonest_share: float, constant: Collection[str]) -> str:
    """Return a sentence, with a space before it, on a network that does no better than a constant
    answer; otherwise nothing."""
    if model.name in constant:
        return (
            " It gives one class for everything, which no attack can change: the figure is that"
            " class's share of the examples and says nothing of robustness."
        )
    if model.worst.value > commonest_share:
        return ""
    return (
        " It does no better under attack than always giving the commonest answer, which is right on"
        f" {percent(commonest_share)}% and cannot be attacked."
    )


def _points(model: ModelRecord, dense: ModelRecord) -> float:
    """Return the difference in percentage points, rounded as shown so that no −0.0 appears."""
    return round(100 * (model.worst.value - dense.worst.value), 1) + 0.0
