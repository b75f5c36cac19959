"""Attacks on the text itself in the report: the figures, and the words, escaped."""

import json
from pathlib import Path
from typing import Any

import pytest

from robustprune.measure.statistics import proportion
from robustprune.report import write_report
from robustprune.report.collect import parse_metrics
from robustprune.report.text_attacks import result_file

EVIL = "<script>alert(1)</script>"


def row(model: str = "rst", attack: str = "deep_word_bug", **changes: Any) -> dict[str, Any]:
    return {
        "model": model,
        "attack": attack,
        "description": "letters, invented",
        "clean": proportion(9, 10).to_json(),
        "attacked": proportion(3, 10).to_json(),
        "success_rate": 6 / 9,
        "mean_queries": 41.4,
        "mean_changed": 0.125,
        **changes,
    }


def result(text: str, adversarial: str, status: str = "success") -> dict[str, Any]:
    changed = int(status == "success")
    return {
        "text": text, "label": 1, "adversarial": adversarial, "status": status, "queries": 12,
        "words": len(text.split()), "changed": changed,
    }  # fmt: skip


def pages(run_dir: Path, metrics: dict[str, Any], results: list[dict[str, Any]]) -> list[str]:
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    path = run_dir / result_file("rst", "deep_word_bug")
    path.parent.mkdir()
    path.write_text(json.dumps({"row": metrics["text"][0], "results": results}))
    return [page.read_text(encoding="utf-8") for page in write_report(run_dir)]


def test_figures_in_both_pages_and_words_in_html(run_dir: Path, metrics: dict[str, Any]) -> None:
    metrics["text"] = [row(), row("natural"), row(attack="worst", mean_changed=None)]
    results = [
        result("a good film", "a godo film"),
        result("kept as it is", "kept as it is", "failed"),
    ]
    html, markdown = pages(run_dir, metrics, results)
    for page in (html, markdown):
        assert "Attacks on the text itself" in page
        assert "letters, invented" in page
    assert "| invented ticket 0.5 (headline) | deep_word_bug | 90.0 | 30.0 [" in markdown
    assert " | 66.7 | 41 | 12.5 | 10 |" in markdown
    assert " | worst | 90.0 | 30.0 [" in markdown
    assert " | 66.7 | 41 | – | 10 |" in markdown
    assert "a <del>good</del> <ins>godo</ins> film" in html
    assert "kept as it is" not in html


def test_a_run_without_them_says_nothing_of_them(written: tuple[Path, Path]) -> None:
    for path in written:
        assert "Attacks on the text itself" not in path.read_text(encoding="utf-8")


def test_markup_in_sentences_stays_text(run_dir: Path, metrics: dict[str, Any]) -> None:
    metrics["text"] = [row(description=EVIL)]
    html, markdown = pages(run_dir, metrics, [result(f"good {EVIL}", f"bad {EVIL} {EVIL}")])
    assert "<script" not in html + markdown
    assert html.count("&lt;script&gt;") >= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "nobody"}, r"text\[0\]\.model: must be one of"),
        ({"attack": "../../etc/passwd"}, r"text\[0\]\.attack: must be a name"),
        ({"success_rate": 1.5}, r"success_rate: must lie in \[0, 1\]"),
        ({"attacked": {"value": 0.5, "n": 0, "ci95": [0, 1]}}, "n of at least 1"),
    ],
)
def test_impossible_rows_are_refused(
    metrics: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        parse_metrics({**metrics, "text": [row(**changes)]})


def test_a_damaged_result_is_refused_by_its_name(run_dir: Path, metrics: dict[str, Any]) -> None:
    metrics["text"] = [row()]
    with pytest.raises(
        ValueError, match=r"rst\.deep_word_bug\.json, results\[0\]\.status: must be"
    ):
        pages(run_dir, metrics, [result("a", "b", "perhaps")])
