"""Differences between networks that saw the same examples."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustprune.measure import paired_bootstrap
from robustprune.report import write_report
from robustprune.report.collect import collect
from robustprune.report.paired import compared, paired_rows, signed
from robustprune.report.terms import terms

HEADER = ["model", "index", "label", "clean_correct", "worst_correct"]


def keep_answers(run_dir: Path, metrics: dict[str, Any], **worst: np.ndarray) -> None:
    """Write which examples each network of the invented run classifies correctly."""
    with open(run_dir / "per_example.csv", "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(HEADER)
        for model in metrics["models"]:
            clean = np.arange(100) < round(100 * model["clean"]["value"])
            held = np.arange(100) < round(100 * model["robust"]["worst"]["value"])
            held = worst.get(model["name"], held)
            for i in range(100):
                lines.writerow([model["name"], i, int(i % 3 == 0), int(clean[i]), int(held[i])])


def test_every_other_network_is_compared_with_the_headline(
    run_dir: Path, metrics: dict[str, Any]
) -> None:
    # the adversarial network keeps 81 examples: 71 of the headline's 76, and 10 others
    held = np.zeros(100, dtype=bool)
    held[:71], held[80:90] = True, True
    keep_answers(run_dir, metrics, adversarial=held)
    rows = {row.title: row for row in paired_rows(collect(run_dir))}
    assert list(rows) == [m["title"] for m in metrics["models"] if m["name"] != "rst"]
    row = rows["invented adversarial dense"]
    assert row.only == "10 / 5"
    assert row.worst.startswith("+5.0 [")
    # McNemar: 2 P(Bin(15, 1/2) ≤ 5) = 0.3018; by Holm times 2, because two rows are clearer
    assert float(row.p) == pytest.approx(2 * 0.30176, abs=1e-3)
    natural = rows["invented natural dense"]
    assert natural.only == "0 / 24"
    assert natural.p == "< 0.001"


def test_the_table_is_in_both_reports(run_dir: Path, metrics: dict[str, Any]) -> None:
    assert "Differences from the headline" not in "".join(
        path.read_text(encoding="utf-8") for path in write_report(run_dir)
    )  # a run without answers
    keep_answers(run_dir, metrics)
    for path in write_report(run_dir):
        text = path.read_text(encoding="utf-8")
        assert "Differences from the headline network" in text
        assert "0 / 24" in text


def test_a_constant_network_comes_last_and_is_not_tested(
    run_dir: Path, metrics: dict[str, Any]
) -> None:
    keep_answers(run_dir, metrics)
    found = collect(run_dir)
    name = {"name": "natural: a constant answer", "ok": False, "figure": "", "detail": ""}
    metrics["findings"] = [name]
    (run_dir / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    *others, last = paired_rows(collect(run_dir))
    assert (last.title, last.note, last.p) == (
        "invented natural dense",
        "one class for everything",
        "–",
    )
    assert len(others) == len(paired_rows(found)) - 1
    assert all(row.p != "–" for row in others)


def test_the_bootstrap_of_pairs_is_that_of_examples() -> None:
    differences = np.array([1] * 10 + [-1] * 5 + [0] * 85)
    rng = np.random.default_rng(1)
    means = rng.choice(differences, size=(4000, 100)).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    found = paired_bootstrap(10, 5, 100)
    assert found == pytest.approx((low, high), abs=0.011)
    assert paired_bootstrap(0, 0, 50) == (0.0, 0.0)
    assert paired_bootstrap(50, 0, 50) == (1.0, 1.0)


@pytest.mark.parametrize("counts", [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be counts of"):
        paired_bootstrap(*counts)


def test_a_difference_has_its_sign() -> None:
    assert [signed(points) for points in (-3.04, 0.04, -0.04, 2.0)] == [
        "−3.0",
        "0.0",
        "0.0",
        "+2.0",
    ]
    assert compared(np.array([True, True]), np.array([True, False])).points.startswith("−50.0 [")


def test_words_are_explained_if_they_occur(run_dir: Path, metrics: dict[str, Any]) -> None:
    metrics["methods"] = [{"title": "RST", "meaning": "a robust scratch ticket"}]
    metrics["models"][3]["title"] = "RST, 0.5 kept, fine-tuned (inherit)"
    (run_dir / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    words = [word for word, _ in terms(collect(run_dir).metrics)]
    assert words == [
        "density",
        "natural dense",
        "adversarial dense",
        "RST",
        "fine-tuned (inherit)",
        "FGSM",
        "PGD-20 ×5",
        "upper bound",
        "worst case",
    ]
    html = write_report(run_dir)[0].read_text(encoding="utf-8")
    assert "<dt>RST</dt><dd>a robust scratch ticket</dd>" in html
