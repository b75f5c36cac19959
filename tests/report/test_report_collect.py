"""A run directory that is not as described is refused by the name of the file or field."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustprune.report import write_report
from robustprune.report.collect import collect, parse_metrics

Change = Callable[[dict[str, Any]], object]


def test_collect_reads_what_the_files_say(run_dir: Path) -> None:
    run = collect(run_dir)
    assert run.metrics.headline_model.title == "invented ticket 0.5"
    assert run.metrics.headline_model.worst.value == 0.76
    assert run.metrics.threat.bounds is None
    assert run.metrics.task.input_shape == (1, 96)
    assert run.environment == {"python": "3.11.7", "threads": "1"}
    assert len(run.histories["rst-inherit"]) == 30
    assert run.histories["rst"][2].robust == pytest.approx(0.42)
    assert run.histories["rst"][2].val_robust is None
    assert run.commonest_share == 0.64
    assert run.config == "name: invented_run\nseed: 3\n"


@pytest.mark.parametrize(
    "name",
    ["metrics.json", "env.json", "config.yaml", "per_example.csv", "models/rst/history.jsonl"],
)
def test_missing_file_is_named(run_dir: Path, name: str) -> None:
    (run_dir / name).unlink()
    with pytest.raises(ValueError, match=f"cannot read .*{name}"):
        write_report(run_dir)


@pytest.mark.parametrize("name", ["metrics.json", "env.json"])
def test_truncated_json_is_named(run_dir: Path, name: str) -> None:
    text = (run_dir / name).read_text(encoding="utf-8")
    (run_dir / name).write_text(text[:-3], encoding="utf-8")
    with pytest.raises(ValueError, match=f"{name} is not valid JSON"):
        write_report(run_dir)


def test_truncated_history_names_its_line(run_dir: Path) -> None:
    path = run_dir / "models/rst/history.jsonl"
    path.write_text(path.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    with pytest.raises(ValueError, match=r"history\.jsonl, line 30 is not valid JSON"):
        write_report(run_dir)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,index,label\nrst,0,cat\n", r"per_example\.csv has no whole-number label on line 2"),
        ("model,index,label\nrst,0\n", r"no whole-number label on line 2"),
        ("model,index\nrst,0\n", r"no whole-number label on line 2"),
        ("model,index,label\nnatural,0,1\n", "no line of model 'rst'"),
    ],
)
def test_labels_must_be_there(run_dir: Path, text: str, message: str) -> None:
    (run_dir / "per_example.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        collect(run_dir)


def test_binary_file_is_named(run_dir: Path) -> None:
    (run_dir / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"config\.yaml is not UTF-8"):
        write_report(run_dir)


def test_refused_run_is_left_without_a_report(run_dir: Path) -> None:
    before = sorted(run_dir.rglob("*"))
    before.remove(run_dir / "env.json")
    (run_dir / "env.json").unlink()
    with pytest.raises(ValueError, match="env"):
        write_report(run_dir)
    assert sorted(run_dir.rglob("*")) == before


def test_history_may_be_empty_and_measure_less(run_dir: Path) -> None:
    (run_dir / "models/rst/history.jsonl").write_text("", encoding="utf-8")
    line = {"epoch": 0, "loss": 0.5, "clean": 0.6, "robust": None, "val_clean": 0.7}
    (run_dir / "models/natural/history.jsonl").write_text(json.dumps(line), encoding="utf-8")
    histories = collect(run_dir).histories
    assert histories["rst"] == ()
    assert histories["natural"][0].robust is None
    assert histories["natural"][0].val_clean == 0.7


def _set(path: str, value: object) -> Change:
    """A change that puts `value` at a dotted path."""

    def change(metrics: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place: Any = metrics
        for key in parents:
            place = place[int(key) if key.isdigit() else key]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("schema", 2), "schema 2, this version reads schema 1"),
        (_set("headline", "rtt"), r"headline: must be one of natural, .*got 'rtt'"),
        (_set("run", 7), "run: must be text, got int"),
        (_set("seed", 1.5), "seed: must be a whole number"),
        (_set("seed", True), "seed: must be a number, got bool"),
        (_set("models.0.clean.value", 88.0), r"models\[0\].clean.value: must lie in \[0, 1\]"),
        (_set("models.0.clean.value", math.nan), r"clean.value: must be finite"),
        (_set("models.0.clean.value", 0.99), r"ci95 must be \[low, high\] around the value 0.99"),
        (_set("models.0.clean.n", 0), "needs n of at least 1"),
        (_set("models.0.kept", 1001), "keeps 1001 of 1000 weights"),
        (_set("models.0.name", "../natural"), "usable as a folder's name"),
        (_set("models.0.name", ".."), "usable as a folder's name"),
        (_set("models.0.name", "rst"), "names must differ"),
        (_set("models.0.curve.0.n", 0), r"curve\[0\]: needs n of at least 1"),
        (_set("threat.norm", "linfty"), "threat.norm: must be one of linf, l2, l1"),
        (_set("threat.bounds", [0.0]), r"must be \[low, high\] or null"),
        (_set("attacks.fgsm.bound", "exact"), "must be one of upper, lower"),
        (_set("models", "none"), "models: must be a list, got str"),
        (_set("findings", [{"name": "a", "ok": 1, "detail": ""}]), "must be true or false"),
        (lambda metrics: metrics["task"].pop("source"), "task: has no field 'source'"),
        (lambda metrics: metrics["models"][1]["robust"].pop("pgd20"), "no field 'pgd20'"),
        (lambda metrics: metrics["models"][1]["robust"].pop("worst"), "no field 'worst'"),
        (lambda metrics: metrics.pop("models"), "has no field 'models'"),
    ],
)
def test_impossible_metrics_are_refused(
    metrics: dict[str, Any], change: Change, message: str
) -> None:
    parse_metrics(copy.deepcopy(metrics))
    change(metrics)
    with pytest.raises(ValueError, match=message):
        parse_metrics(metrics)


def test_switch_may_not_headline_the_attack_that_does_not_adapt(
    metrics: dict[str, Any], switch: dict[str, Any]
) -> None:
    metrics["r2s"] = {**switch, "headline": "independent"}
    with pytest.raises(ValueError, match="an attack that knows of the switch"):
        parse_metrics(metrics)
