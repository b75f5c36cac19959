"""Numbers and names as they are written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robustprune.report import summary, wording
from robustprune.report.collect import parse_metrics
from robustprune.report.paired import compared
from robustprune.report.records import AttackRecord, ThreatRecord


@pytest.mark.parametrize(
    ("name", "description", "label"),
    [
        ("fgsm", "FGSM(eps=0.1)", "FGSM"),
        ("pgd20", "PGD(steps=20, restarts=5)", "PGD-20 ×5"),
        ("pgd20", "PGD(steps=20, restarts=1)", "PGD-20"),
        ("auto-attack", "standard", "AUTO-ATTACK"),
    ],
)
def test_attack_label(name: str, description: str, label: str) -> None:
    assert wording.attack_label(AttackRecord(name, description, "upper")) == label


@pytest.mark.parametrize(
    ("bounds", "phrase"),
    [
        (None, "L2 ≤ 0.5 (input units, inputs not bounded)"),
        ((0.0, 1.0), "L2 ≤ 0.5 (input units, inputs kept in [0, 1])"),
    ],
)
def test_threat_phrase(bounds: tuple[float, float] | None, phrase: str) -> None:
    assert wording.threat_phrase(ThreatRecord("l2", 0.5, bounds, "input units")) == phrase


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 B"), (12345, "12.3 kB"), (44_700_000, "44.7 MB")]
)
def test_file_size(size: int, text: str) -> None:
    assert wording.file_size(size) == text


@pytest.mark.parametrize(("density", "text"), [(1.0, "100%"), (0.05, "5%"), (0.01234, "1.23%")])
def test_share(density: float, text: str) -> None:
    assert wording.share(density) == text


def test_listing() -> None:
    assert wording.listing(["a"]) == "a"
    assert wording.listing(["a", "b", "c"]) == "a, b and c"


def _text(lines: list[summary.Line]) -> str:
    return " ".join(line.text for line in lines)


def test_summary_says_what_was_measured(metrics: dict[str, Any]) -> None:
    text = _text(summary.lines(parse_metrics(metrics), commonest_share=0.64))
    assert "“invented ticket 0.5”, keeps 500 of 1,000 weights (50%)" in text
    assert "84.0% of n = 100 test examples correctly (95% interval [75.3, 90.6])" in text
    assert "L∞ ≤ 0.1 (input units, inputs not bounded)" in text
    assert "76.0% of n = 100 stay correct ([66.4, 84.0]) under every attack run here" in text
    assert "an upper bound on robustness" in text
    assert "a stronger attack can only lower it" in text
    # 76 of 100 against 81 of 100: [66.4, 84.0] and [71.9, 88.2].
    assert "5.0 points below “invented adversarial dense” (81.0%) under attack" in text
    assert "the run keeps no answers to compare them by" in text


@pytest.mark.parametrize(("median", "said"), [(0.2468, "0.247"), (None, "none found")])
def test_summary_of_distances(metrics: dict[str, Any], median: float | None, said: str) -> None:
    figures = {"n": 50, "success_rate": 0.4, "q25": 0.1, "median": median, "q75": None}
    metrics["models"][2]["minimal"] = {"norm": "linf", **figures}
    last = summary.figures(parse_metrics(metrics))[-1]
    assert (last.label, last.value) == ("nearest adversarial example", said)
    assert last.note == "median of n = 50, L∞, upper bound"


def test_the_summary_has_five_short_lines(metrics: dict[str, Any]) -> None:
    lines = summary.lines(parse_metrics(metrics), commonest_share=0.64)
    labels = ["Size", "Without attack", "Under attack", "Against dense", "Checks"]
    assert [line.label for line in lines] == labels
    assert all(len(line.text) < 240 for line in lines)


def _with_dense(metrics: dict[str, Any], value: float, ci95: list[float]) -> str:
    metrics["models"][1]["robust"]["worst"] = {"value": value, "n": 100, "ci95": ci95}
    return _text(summary.lines(parse_metrics(metrics), commonest_share=0.64))


def test_summary_of_a_dense_network_far_below(metrics: dict[str, Any]) -> None:
    text = _with_dense(metrics, 0.4, [0.3, 0.5])
    assert "36.0 points above “invented adversarial dense”" in text


@pytest.mark.parametrize(
    ("better", "worse", "said"),
    [
        # 2 (C(5,0) + C(5,1)) / 2⁵ and 2 / 2¹⁵
        (1, 4, "p = 0.375). These examples alone do not show which"),
        (15, 0, "p < 0.001)."),
    ],
)
def test_summary_tests_pairs_not_intervals(
    metrics: dict[str, Any], better: int, worse: int, said: str
) -> None:
    dense = np.array([0] * better + [1] * (100 - better), dtype=bool)
    headline = np.array([1] * better + [0] * worse + [1] * (100 - better - worse), dtype=bool)
    paired = compared(dense, headline)
    text = _text(summary.lines(parse_metrics(metrics), commonest_share=0.64, paired=paired))
    assert f"only the headline is right on {better} and only the dense network on {worse}" in text
    assert said in text
    note = summary.figures(parse_metrics(metrics), paired=paired)[-1].note
    assert note.startswith("points worst-case, paired [")


def test_summary_of_a_constant_headline(metrics: dict[str, Any]) -> None:
    text = _text(summary.lines(parse_metrics(metrics), commonest_share=0.64, constant=["rst"]))
    assert "It gives one class for everything, which no attack can change" in text


@pytest.mark.parametrize(
    ("title", "density", "exact"),
    [
        ("RST, 0.2 kept", 0.2, "RST, 0.2 kept"),
        ("RST, 0.2 kept", 0.2001, "RST, 0.2 kept"),
        ("RST, 0.2 kept", 0.25, "RST, 0.2 asked, 0.25 kept"),
        ("HARP, 0.05 kept, fine-tuned", 0.0512, "HARP, 0.05 asked, 0.0512 kept, fine-tuned"),
        ("RST, 1e-05 kept", 2e-05, "RST, 1e-05 asked, 2e-05 kept"),
        ("natural dense", 1.0, "natural dense"),
        ("mine, 1.2.3 kept", 0.5, "mine, 1.2.3 kept"),
    ],
)
def test_a_title_says_what_was_asked_and_what_is_kept(
    title: str, density: float, exact: str
) -> None:
    assert wording.exact_title(title, density) == exact


def test_summary_of_a_tie(metrics: dict[str, Any]) -> None:
    assert "Level with “invented adversarial dense”" in _with_dense(metrics, 0.76, [0.7, 0.8])
    assert summary.figures(parse_metrics(metrics))[-1].value == "±0.0"


def test_nothing_is_compared_without_a_dense_baseline(metrics: dict[str, Any]) -> None:
    del metrics["models"][1]
    record = parse_metrics(metrics)
    assert "points" not in _text(summary.lines(record, commonest_share=0.64))
    assert len(summary.figures(record)) == 3


def test_figures_at_a_glance(metrics: dict[str, Any]) -> None:
    values = [figure.value for figure in summary.figures(parse_metrics(metrics))]
    assert values == ["50%", "84.0%", "76.0%", "−5.0"]


def test_checks_are_summed_up(metrics: dict[str, Any]) -> None:
    assert "No sanity checks" in summary.checks(parse_metrics(metrics))
    good = {"name": "reaches zero", "ok": True, "figure": "0%", "detail": "as it must"}
    metrics["findings"] = [good, good]
    assert summary.checks(parse_metrics(metrics)).startswith("All 2 sanity checks")
    metrics["findings"] = [good, {**good, "name": "steps converge", "ok": False}]
    assert "Caution: 1 of 2 sanity checks" in summary.checks(parse_metrics(metrics))
    assert "(steps converge)" in summary.checks(parse_metrics(metrics))


@pytest.mark.parametrize(("share", "said"), [(0.75, False), (0.76, True), (0.9, True)])
def test_summary_says_when_a_constant_answer_does_as_well(
    metrics: dict[str, Any], share: float, said: bool
) -> None:
    text = _text(summary.lines(parse_metrics(metrics), commonest_share=share))
    assert ("no better under attack than always giving the commonest answer" in text) is said
    assert (f"right on {100 * share:.1f}%" in text) is said
