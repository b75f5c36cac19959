"""Runs on causal language models in one table."""

import csv
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from robustprune.cli import main
from robustprune.compare.causal import spread
from robustprune.report.causal_records import Figure
from robustprune.run.config import Config, parse_config


def figure(value: float | None, width: float = 0.1) -> dict[str, Any]:
    ends = [None, None] if value is None else [value - width, value + width]
    return {"value": value, "ci95": ends, "windows": 4}


def network(name: str, method: str, level: str | None, value: float | None) -> dict[str, Any]:
    return {
        "name": name, "title": name, "method": method, "level": level, "perplexity": figure(value),
        "ratio": None if level is None else figure(2.0), "attacked": None, "continuation": "a <b>",
        "density": 1.0 if level is None else 0.5, "whole_density": 1.0, "layers": [], "files": {},
    }  # fmt: skip


def write_run(
    root: Path, values: dict[tuple[str, str], float | None], *, name: str = "one", seed: int = 0
) -> Path:
    config = Config.model_validate({"name": name, "seed": seed, "task": {"name": "stories"}})
    folder = config.folder(root)
    (folder / "models").mkdir(parents=True)
    found = [network("dense", "dense", None, 4.0)]
    for (method, level), value in values.items():
        found.append(
            network(f"{method}-{level.strip('%')}".replace(":", "of"), method, level, value)
        )
        models = folder / "models" / found[-1]["name"]
        models.mkdir()
        (models / "history.jsonl").write_text('{"layer": "a.weight", "loss": 0.1}\n')
    task = {
        "name": "stories", "source": "a <source>", "windows": 4, "window": 64, "calibration": 4,
        "calibration_window": 64,
    }  # fmt: skip
    model = {
        "weights": "small", "type": "llama", "parameters": 100, "dtype": "float32", "vocabulary": 9,
    }  # fmt: skip
    metrics = {
        "schema": 1, "kind": "causal", "run": name, "seed": seed, "headline": found[1]["name"],
        "task": task, "model": model, "attack": None, "prompt": "Once", "networks": found,
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.yaml").write_text(config.to_yaml())
    (folder / "env.json").write_text("{}")
    return folder


LEVELS = {("Wanda", "50%"): 8.0, ("Wanda", "2:4"): 20.0, ("ours", "50%"): 6.0}


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["compare", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_seeds_are_averaged_and_other_runs_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, more in enumerate((0.0, 1.0, 5.0)):
        write_run(tmp_path, {k: v + more for k, v in LEVELS.items()}, seed=seed)
    write_run(tmp_path, {("Wanda", "50%"): 9.0, ("Wanda", "70%"): None}, name="two")
    out = tmp_path / "out"
    found = compared(capsys, str(tmp_path), "--out", str(out))
    (board,) = found["language_models"]
    assert found["boards"] == []
    assert [row["method"] for row in board["rows"]] == ["Wanda", "ours", "Wanda"]
    assert sorted(board["rows"][0]["perplexity"]["50%"]) == [8, 9, 13]
    assert board["rows"][2]["perplexity"] == {"50%": [9], "70%": [None]}
    with (out / "language_models.csv").open() as file:
        rows = list(csv.DictReader(file))
    mean = next(row for row in rows if (row["method"], row["level"]) == ("ours", "50%"))
    assert float(mean["perplexity"]) == 8
    assert float(mean["sd"]) == statistics.stdev([6, 7, 11])
    text = (out / "language_models.md").read_text()
    assert "| Wanda (one) | 10 ± 2.646 | 22 ± 2.646 |  |" in text
    assert "| Wanda (two) | 9 [8.9, 9.1] |  | ∞ [∞, ∞] |" in text
    page = (out / "language_models.html").read_text()
    assert "Wanda (two)" in page
    said = "Wanda (one) at 50% 10; ours at 50% 8; Wanda (two) at 50% 9; Wanda (two) at 70% ∞"
    assert said in page
    assert page.count("<svg") == len(list((out / "plots").iterdir())) == 1
    assert main(["compare", str(tmp_path)]) == 0
    assert "Wanda (one)" in capsys.readouterr().out


def test_bars_of_a_plot_are_one_deviation_or_an_interval() -> None:
    one = Figure(8.0, 7.5, 9.0)
    assert spread([one]) == one
    found = spread([Figure(value, 0, 99) for value in (8.0, 9.0, 13.0)])
    deviation = statistics.stdev([8, 9, 13])
    assert found == Figure(10.0, 10 - deviation, 10 + deviation)
    assert spread([Figure(value, 0, 99) for value in (1.0, 99.0)]).low == 5.0
    assert spread([one, Figure(math.inf, math.inf, math.inf)]).value == math.inf


def test_a_seed_of_infinite_perplexity_has_no_deviation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, value in enumerate((8.0, None)):
        write_run(tmp_path, {("Wanda", "50%"): value, ("ours", "50%"): 6.0 + seed}, seed=seed)
    out = tmp_path / "out"
    found = compared(capsys, str(tmp_path), "--out", str(out))
    rows = found["language_models"][0]["rows"]
    assert sorted(rows[0]["perplexity"]["50%"], key=str) == [8, None]
    assert "| Wanda | ∞ |\n" in (out / "language_models.md").read_text()
    with (out / "language_models.csv").open() as file:
        _, wanda, ours = csv.DictReader(file)
    assert (wanda["perplexity"], wanda["sd"]) == ("inf", "")
    assert float(ours["sd"]) == statistics.stdev([6, 7])
    assert main(["compare", str(tmp_path)]) == 0


def test_a_method_cannot_be_a_formula(tmp_path: Path) -> None:
    folder = write_run(tmp_path, LEVELS)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["networks"][-1]["method"] = "=1+1"
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    with (tmp_path / "out" / "language_models.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)][-1] == "'=1+1"


def test_one_share_has_no_plot(tmp_path: Path) -> None:
    write_run(tmp_path, LEVELS)
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert "<svg" not in (tmp_path / "out" / "language_models.html").read_text()


def test_what_cannot_be_compared_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path / "a", LEVELS)
    write_run(tmp_path / "b", LEVELS)
    assert main(["compare", str(tmp_path)]) == 2
    assert "are the same config and seed; give one" in capsys.readouterr().err
    entry = ["--entry", str(tmp_path / "e"), "--key", "A_B2026C"]
    assert main(["compare", str(first), *entry]) == 2
    assert "--entry is for classifiers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(schema=2), "has schema 2"),
        (lambda m: m.update(headline="other"), "must be one of dense, Wanda-50"),
        (lambda m: m["networks"][2].update(name="Wanda-50"), "and names must differ"),
        (lambda m: m["networks"][0].update(level="50%"), "must begin with the dense network"),
        (lambda m: m["networks"][1].update(name="../x"), "usable as a folder's name"),
        (lambda m: m["networks"][1].update(density=1.5), "must lie in \\[0, 1\\]"),
        (lambda m: m["networks"][1]["perplexity"].update(ci95=[9, 10]), "around the value 8"),
        (lambda m: m["networks"][1]["perplexity"].update(ci95=[1]), "must be \\[low, high\\]"),
        (lambda m: m["task"].pop("source"), "has no field 'source'"),
    ],
)
def test_metrics_that_make_no_sense_are_refused(
    tmp_path: Path, change: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path, LEVELS)
    metrics = json.loads((folder / "metrics.json").read_text())
    change(metrics)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert main(["report", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line), line


def test_the_report_escapes_what_others_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path, {**LEVELS, ("<script>|x", "70%"): None})
    assert main(["report", str(folder)]) == 2  # the name of a folder can't have such signs
    assert "usable as a folder's name" in capsys.readouterr().err
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["networks"][-1]["name"] = "script"
    (folder / "models" / "script").mkdir()
    (folder / "models" / "script" / "history.jsonl").write_text("")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert main(["report", str(folder)]) == 0
    page, text = ((folder / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert "<script>" not in page
    assert "<script>" not in text
    assert "∞" in page
    assert "a &lt;b&gt;" in page
    assert parse_config({}).causal == Config().causal


def test_a_sweep_shows_perplexities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("name: texts\nconfig: lm_stories\ngrid: {density: [0.5, 0.3]}\n")
    out = tmp_path / "out"
    arguments = ["sweep", str(sweep), "--out", str(out), "--status"]
    assert main([*arguments, "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    metrics = json.loads((write_run(tmp_path / "a", LEVELS) / "metrics.json").read_text())
    for run, value in zip(runs, (8.125, None), strict=True):
        assert run["status"] == "waiting"
        Path(run["run"]).mkdir(parents=True)
        metrics["networks"][1]["perplexity"]["value"] = value
        (Path(run["run"]) / "metrics.json").write_text(json.dumps(metrics))
        (Path(run["run"]) / "report.html").write_text("")
    assert main(arguments) == 0
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first.endswith("density=0.5  perplexity 8.125, dense 4")
    assert second.endswith("density=0.3  dense 4")
