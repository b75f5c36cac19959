"""report.html and report.md: complete, safe, self-contained, and the same every time."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from robustprune.report import write_report

Report = Callable[[dict[str, Any]], tuple[str, str]]
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that tags balance; gathers text, attributes and the cells of each table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.stack:
            return
        self.words.append(data)
        if "td" in self.stack or "th" in self.stack:
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {data.strip()}".strip()

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def test_every_figure_of_every_network_is_in_the_table(written: tuple[Path, Path]) -> None:
    html, _ = written
    rows = Page(html.read_text(encoding="utf-8")).rows
    assert rows[0][:3] == ["network", "density", "weights kept of all"]
    assert rows[0][3:7] == [
        "clean no attack",
        "FGSM upper bound",
        "PGD-20 ×5 upper bound",
        "worst case of all attacks",
    ]
    assert [
        "invented natural dense",
        "1",
        "1,000 of 1,000",
        "88.0 [80.0, 93.6]",
        "60.0 [49.7, 69.7]",
        "53.0 [42.8, 63.1]",
        "52.0 [41.8, 62.1]",
        "100",
        "12.3 kB",
    ] in rows
    assert rows[3] == [
        "invented ticket 0.5 headline",
        "0.5",
        "500 of 1,000",
        "84.0 [75.3, 90.6]",
        "79.0 [69.7, 86.5]",
        "77.0 [67.5, 84.8]",
        "76.0 [66.4, 84.0]",
        "100",
        "12.3 kB",
    ]
    assert len(rows) == 6


def test_markdown_has_the_same_rows(written: tuple[Path, Path]) -> None:
    text = written[1].read_text(encoding="utf-8")
    assert (
        "| invented ticket 0.5 (headline) | 0.5 | 500 of 1,000 | 84.0 [75.3, 90.6]"
        " | 79.0 [69.7, 86.5] | 77.0 [67.5, 84.8] | 76.0 [66.4, 84.0] | 100 | 12.3 kB |\n"
    ) in text
    widths = {line.count("|") for line in text.splitlines() if re.match(r"\| (in|:|ne)", line)}
    assert 10 in widths


def test_columns_measured_on_different_numbers_of_examples_say_so(
    report: Report, metrics: dict[str, Any]
) -> None:
    metrics["models"][0]["clean"]["n"] = 10_000
    html, _ = report(metrics)
    assert Page(html).rows[1][-2] == "10,000 / 100 / 100 / 100"


def test_both_reports_say_what_must_not_be_left_out(written: tuple[Path, Path]) -> None:
    for path in written:
        text = path.read_text(encoding="utf-8")
        text = Page(text).text if path.suffix == ".html" else " ".join(text.split())
        for phrase in (
            "Robustness report: invented_run",
            "keeps 500 of 1,000 weights (50%)",
            "a stronger attack can only lower it",
            "5.0 points below",
            "Each line is an upper bound (attack)",
            "A mask by itself does not make a network smaller or faster",
            "PGD(eps=0.1, steps=20, restarts=5)",
            "Clopper–Pearson, two-sided, 95%",
            "robustprune run config.yaml --seed 3",
            "90 training, 10 validation, 100 test; 2 classes; input 1 × 96",
            "figures made up for a test",
            "name: invented_run",
            "3.11.7",
            "No sanity checks of the measurement were recorded",
            "Every line reaches zero",
            "commonest answer would be right on 64.0%, attacked or not",
        ):
            assert phrase in text, (path.name, phrase)


def test_html_loads_nothing_and_runs_nothing(written: tuple[Path, Path]) -> None:
    text = written[0].read_text(encoding="utf-8")
    page = Page(text)
    for tag, name, value in page.attributes:
        assert tag not in ("script", "link", "iframe", "img")
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href"):
            assert value.startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text
    assert "://" not in text
    identifiers = [value for _, name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    assert ("meta", "name", "viewport") in page.attributes


def test_markdown_pictures_are_there(written: tuple[Path, Path]) -> None:
    text = written[1].read_text(encoding="utf-8")
    pictures = re.findall(r"\]\((plots/[^)]+)\)", text)
    assert len(pictures) == 6
    for picture in pictures:
        assert (written[1].parent / picture).read_text(encoding="utf-8").startswith("<?xml")


def test_names_are_escaped_everywhere(report: Report, metrics: dict[str, Any]) -> None:
    evil = "<script>alert(1)</script> | [x](javascript:1) `code` **bold** &amp;"
    metrics["run"] = metrics["task"]["source"] = metrics["models"][2]["title"] = evil
    metrics["attacks"]["fgsm"]["description"] = evil
    metrics["findings"] = [{"name": evil, "ok": True, "figure": evil, "detail": evil}]
    html, markdown = report(metrics)
    page = Page(html)
    assert "<script" not in html
    assert evil in page.text
    assert all(tag != "script" for tag, _, _ in page.attributes)
    assert "<script" not in markdown
    assert not re.search(r"(?<!\\)\]\(javascript", markdown)
    assert "**bold**" not in markdown
    row = next(line for line in markdown.splitlines() if "(headline) |" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 10


def test_config_cannot_end_its_code_block(run_dir: Path) -> None:
    hostile = "a: |\n  ````\n  # not a heading\n</code><script>\n"
    (run_dir / "config.yaml").write_text(hostile, encoding="utf-8")
    html, markdown = (path.read_text(encoding="utf-8") for path in write_report(run_dir))
    assert f"`````\n{hostile.rstrip()}\n`````\n" in markdown
    assert "<script" not in html


def test_switch_headlines_the_adaptive_attack(
    report: Report, metrics: dict[str, Any], switch: dict[str, Any]
) -> None:
    metrics["r2s"] = switch
    html, markdown = report(metrics)
    rows = {row[0]: row[1:] for row in Page(html).rows[6:]}
    headline = rows["attack on the expected logits of all tickets (adaptive)"]
    assert headline == ["57.0 [46.7, 66.9]", "100", "headline: upper bound on robustness"]
    assert list(rows).index("attack on the expected logits of all tickets (adaptive)") == 2
    independent = rows["independent sampling, as published (not adaptive, not comparable)"]
    assert independent[0] == "71.0 [61.1, 79.6]"
    assert independent[2].startswith("not comparable")
    assert rows["the lower of these two, per example (adaptive)"][0].startswith("56.2 [")
    assert sum("headline" in " ".join(row) for row in rows.values()) == 1
    assert "| 57.0 [46.7, 66.9] | 100 | headline: upper bound on robustness |" in markdown
    assert "densities 0.05, 0.1 and 0.2" in markdown


def test_independent_attack_below_the_headline_is_called_out(
    report: Report, metrics: dict[str, Any], switch: dict[str, Any]
) -> None:
    metrics["r2s"] = {**switch, "independent": switch["eot"], "adaptive": switch["clean"]}
    html, markdown = report(metrics)
    for text in (Page(html).text, markdown):
        assert "below the headline: the adaptive attack was not strong enough here" in text
        assert "not comparable: the attacker" not in text


def test_no_switch_no_section(written: tuple[Path, Path]) -> None:
    for path in written:
        assert "R2S" not in path.read_text(encoding="utf-8")


def test_failed_check_comes_first_and_is_in_the_summary(
    report: Report, metrics: dict[str, Any]
) -> None:
    metrics["findings"] = [
        {"name": "steps converge", "ok": True, "figure": "0.1", "detail": "fine"},
        {"name": "reaches zero", "ok": False, "figure": "4%", "detail": "stays up"},
    ]
    html, markdown = report(metrics)
    text = Page(html).text
    assert 'class="caution"' in html
    assert "<details open><summary>Caution: 1 of 2" in html
    assert text.index("✗ failed reaches zero · 4%") < text.index("✓ passed steps converge")
    assert "- ✗ failed: **reaches zero** · 4%. stays up\n" in markdown
    assert "Caution: 1 of 2" in markdown


def test_checks_that_all_pass_are_one_line(report: Report, metrics: dict[str, Any]) -> None:
    metrics["findings"] = [{"name": "reaches zero", "ok": True, "figure": "0%", "detail": "so"}]
    html, _ = report(metrics)
    assert "<details><summary>All 1 sanity checks of the measurement passed." in html


def test_the_contents_lead_to_every_section(written: tuple[Path, Path]) -> None:
    text = written[0].read_text(encoding="utf-8")
    targets = re.findall(r'<a href="#([^"]+)">', text)
    sections = re.findall(r'<section[^>]* id="([^"]+)"|<section id="([^"]+)"', text)
    assert targets == ["".join(found) for found in sections]


def test_curve_that_stops_early_is_reported(report: Report, metrics: dict[str, Any]) -> None:
    metrics["models"][1]["curve"][-1]["value"] = 0.1
    html, _ = report(metrics)
    text = Page(html).text
    assert "Not followed down to zero: invented adversarial dense." in text
    assert "Every line reaches zero" not in text


def test_run_without_curves_has_no_curve_section(report: Report, metrics: dict[str, Any]) -> None:
    for model in metrics["models"]:
        model["curve"] = []
    html, _ = report(metrics)
    assert "Accuracy as the perturbation grows" not in html
    assert "What is kept of each layer" in html


def test_tradeoff_section_needs_several_densities(
    report: Report, metrics: dict[str, Any], several: dict[str, Any]
) -> None:
    assert "Density against accuracy" not in report(metrics)[0]
    html, _ = report(several)
    assert "Density against accuracy" in html
    Page(html)


def test_same_run_same_bytes_and_nothing_half_written(run_dir: Path) -> None:
    first = [path.read_bytes() for path in write_report(run_dir)]
    assert [path.read_bytes() for path in write_report(run_dir)] == first
    assert not list(run_dir.rglob(".*"))


def test_failed_write_leaves_the_old_report(
    run_dir: Path, metrics: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    html, _ = write_report(run_dir)
    old = html.read_bytes()
    (run_dir / "metrics.json").write_text(json.dumps({**metrics, "run": "new"}), encoding="utf-8")

    replace = os.replace

    def full_disk(source: Path, target: Path) -> None:
        if target.name == "report.html":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match=r"report\.html: no space left"):
        write_report(run_dir)
    assert html.read_bytes() == old
    assert not list(run_dir.rglob(".*"))


def test_size_and_speed_stand_in_both_reports(run_dir: Path) -> None:
    row = {
        "name": "dense",
        "parameters": 1234,
        "nonzeros": 1234,
        "macs": 99000,
        "effective_macs": 99000,
        "file_bytes": 5000,
        "latency": 0.002,
        "latency_quartiles": [0.0019, 0.0021],
        "batch_size": 64,
        "threads": 2,
        "device": "cpu",
    }
    small = {**row, "name": "slim", "parameters": 321, "latency": 0.001}
    costs = {"headline": "invented | ticket", "note": "", "rows": [row, small]}
    html, markdown = (path.read_text(encoding="utf-8") for path in write_report(run_dir))
    assert "Size and speed" not in html + markdown  # a run without costs has no such table
    (run_dir / "cost.json").write_text(json.dumps(costs), encoding="utf-8")
    html, markdown = (path.read_text(encoding="utf-8") for path in write_report(run_dir))
    assert "| slim | 321 | 1,234 |" in markdown
    assert "| 1.00 ms [1.90, 2.10] | 0.50 |" in markdown
    assert "batches of 64, 2 threads, cpu" in markdown
    assert '<th scope="row">slim</th><td>321<small>1,234</small></td>' in html
    for text in (html, markdown):
        assert "saves neither memory nor time" in text
    row["uncounted"], costs["note"] = ["LSTM 'a<b>'"], "No slim form: <why>."
    (run_dir / "cost.json").write_text(json.dumps(costs), encoding="utf-8")
    html, markdown = (path.read_text(encoding="utf-8") for path in write_report(run_dir))
    assert "| at least 99,000 | at least 99,000 |" in markdown
    assert "No slim form: &lt;why&gt;." in html
    (run_dir / "cost.json").write_text(json.dumps({**costs, "rows": []}), encoding="utf-8")
    for path in write_report(run_dir):  # nothing measured: the note says why
        text = path.read_text(encoding="utf-8")
        assert "Size and speed" in text
        assert "No slim form" in text
        assert "saves neither memory" not in text
    del row["macs"]
    (run_dir / "cost.json").write_text(json.dumps(costs), encoding="utf-8")
    with pytest.raises(ValueError, match=r"cost\.json, rows\[0\]: has no field 'macs'"):
        write_report(run_dir)


def test_both_reports_state_the_density_of_the_whole_network(
    report: Report, metrics: dict[str, Any]
) -> None:
    assert all("that of all parameters" not in text for text in report(metrics))
    for model in metrics["models"]:
        model["parameters"] = 10_000
    sparse = min(metrics["models"], key=lambda model: model["kept"])
    whole = f"{1 - (1000 - sparse['kept']) / 10_000:.3g}"
    html, markdown = report(metrics)
    assert f"<td>{sparse['density']:.3g}<small>network {whole}</small></td>" in html
    assert f"| {sparse['density']:.3g} (network {whole}) |" in markdown
    for text in (html, markdown):
        assert "“network” that of all parameters, with biases" in text
