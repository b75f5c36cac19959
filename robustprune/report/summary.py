"""Summarise the run for a decision, in sentences and four figures."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from robustprune.measure.comparison import PairedTest, mcnemar
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
class Figure:
    """One number with its label and a note."""

    label: str
    value: str
    note: str


def against_dense(run: RunRecord) -> PairedTest | None:
    """Compare the worst case of the headline model with that of the dense network, on the same
    examples (`mcnemar`). None if there is no other network, or no answers were stored."""
    dense, headline = run.answers.get(DENSE_BASELINE), run.answers.get(run.metrics.headline)
    if dense is None or headline is None or dense is headline:
        return None
    return mcnemar(dense.worst.tolist(), headline.worst.tolist())


def sentences(
    metrics: MetricsRecord,
    *,
    commonest_share: float,
    paired: PairedTest | None = None,
    constant: Collection[str] = (),
) -> list[str]:
    """Return the sentences of the summary paragraph.

    Args:
        commonest_share: the accuracy of always giving the most frequent answer, which no attack can
            lower.
        paired: the result of `against_dense`.
        constant: the names of the networks that give one class for every input.
    """
    model = metrics.headline_model
    clean, worst = model.clean, model.worst
    return [
        f"The headline network, “{model.title}”, keeps {count(model.kept)} of"
        f" {count(model.total)} weights ({share(model.kept / model.total)}).",
        f"Without attack it classifies {percent(clean.value)}% of n = {count(clean.n)} test"
        f" examples correctly (95% interval {interval(clean)}).",
        f"Under perturbations of {threat_phrase(metrics.threat)}, {percent(worst.value)}% of"
        f" n = {count(worst.n)} stay correct in the worst case over all attacks run"
        f" (95% interval {interval(worst)}).",
        "That figure is an upper bound on robustness: it comes from the strongest attack run"
        " here, and a stronger attack can only lower it.",
        *_nearest(model),
        *_comparison(model, metrics.find(DENSE_BASELINE), paired),
        *_constant_answer(model, commonest_share, constant),
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


def figures(metrics: MetricsRecord, *, paired: PairedTest | None = None) -> list[Figure]:
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
        sign = "−" if points < 0 else "+" if points > 0 else "±"
        test = "" if paired is None else f"; paired test p {p_value(paired.p)}"
        shown.append(
            Figure(
                "against dense adversarial",
                f"{sign}{abs(points):.1f}",
                f"points worst-case{test}",
            )
        )
    return shown


def _nearest(model: ModelRecord) -> list[str]:
    found = model.minimal
    if found is None:
        return []
    if found.median is None:
        return [
            f"For more than half of n = {count(found.n)} test examples no attack found an"
            " adversarial example at any distance."
        ]
    return [
        f"Half of n = {count(found.n)} test examples have an adversarial example at most"
        f" {found.median:.3g} away ({norm_name(found.norm)}; 0 where misclassified already): the"
        " median of r*, again an upper bound."
    ]


def _comparison(
    model: ModelRecord, dense: ModelRecord | None, paired: PairedTest | None
) -> list[str]:
    if dense is None or dense is model:
        return []
    points = _points(model, dense)
    direction = "below" if points < 0 else "above"
    distance = f"{abs(points):.1f} points {direction}" if points else "level with"
    verdict = "the run keeps no answers to test on the same examples whether that is chance"
    if paired is not None:
        verdict = (
            f"of the same examples, only the headline is right on {paired.better} and only that"
            f" network on {paired.worse} (McNemar's exact test: p {p_value(paired.p)}"
        )
        unclear = ", so these examples alone do not show which of the two is more robust"
        verdict += ")" + (unclear if paired.p >= LEVEL else "")
    return [
        f"Its worst case is {distance} “{dense.title}”, which reaches {percent(dense.worst.value)}%"
        f" {interval(dense.worst)} under the same attacks; {verdict}."
    ]


def _constant_answer(
    model: ModelRecord, commonest_share: float, constant: Collection[str]
) -> list[str]:
    if model.name in constant:
        return [
            "It gives one class for everything, which no attack can change: its robust accuracy is"
            " that class's share of the examples and says nothing of robustness."
        ]
    if model.worst.value > commonest_share:
        return []
    return [
        f"It does no better under attack than always giving the commonest answer, which is right on"
        f" {percent(commonest_share)}% and cannot be attacked."
    ]


def _points(model: ModelRecord, dense: ModelRecord) -> float:
    """Return the difference in percentage points, rounded as shown so that no −0.0 appears."""
    return round(100 * (model.worst.value - dense.worst.value), 1) + 0.0
