"""Read a run directory, and refuse content that would make the report wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from robustprune.certify import read_certificates
from robustprune.certify.certificate import FILE
from robustprune.report.examples import read_answers, read_examples
from robustprune.report.fields import Field, parse_json, read_text
from robustprune.report.pictured import read_pictured
from robustprune.report.records import (
    WORST,
    AttackRecord,
    Certificates,
    CostRecord,
    CostsRecord,
    CurvePoint,
    EpochRecord,
    FindingRecord,
    MethodRecord,
    MetricsRecord,
    ModelRecord,
    RunRecord,
    SwitchRecord,
    ThreatRecord,
)
from robustprune.report.selection import read_selections
from robustprune.report.text_attacks import parse_text_attacks, read_text_results
from robustprune.report.wording import exact_title

SCHEMA = 1
SWITCH_ATTACKS = ("adaptive", "eot", WORST, "independent")


def collect(run_dir: Path) -> RunRecord:
    """Read the files of a run for its report.

    These are config.yaml, env.json, metrics.json, per_example.csv and each model's history.jsonl;
    and, if they exist, cost.json, certificates.jsonl of the headline and of other models, the
    models' selection.safetensors and the results of attacks on text.

    Raises:
        ValueError: a file is missing, unreadable or malformed; the message names it.
    """
    metrics_path = run_dir / "metrics.json"
    metrics = _metrics(parse_json(read_text(metrics_path), source=str(metrics_path)))
    examples = read_examples(run_dir / "per_example.csv", metrics.headline)
    env_path = run_dir / "env.json"
    env = parse_json(read_text(env_path), source=str(env_path))
    return RunRecord(
        metrics=metrics,
        costs=_costs(run_dir / "cost.json"),
        certificates=_certificates(run_dir, metrics),
        labels=tuple(int(line["label"]) for line in examples[metrics.headline]),
        answers=read_answers(examples, metrics, source=str(run_dir / "per_example.csv")),
        texts=read_text_results(run_dir, metrics.headline, metrics.text),
        pictured=read_pictured(run_dir, metrics),
        selections=read_selections(run_dir, [model.name for model in metrics.models]),
        histories={
            model.name: _history(run_dir / "models" / model.name / "history.jsonl")
            for model in metrics.models
        },
        config=read_text(run_dir / "config.yaml"),
        environment={key: str(value) for key, value in env.mapping().items()},
    )


def _certificates(run_dir: Path, metrics: MetricsRecord) -> dict[str, Certificates]:
    """Return the certificates of each network that has some, by its name."""
    files = {metrics.headline: run_dir / FILE}
    for model in metrics.models:
        files.setdefault(model.name, run_dir / "models" / model.name / FILE)
    return {name: read_certificates(path) for name, path in files.items() if path.exists()}


def parse_metrics(metrics: Mapping[str, object]) -> MetricsRecord:
    """Check and convert the content of metrics.json.

    Raises:
        ValueError: a field is missing or impossible; the message names it.
    """
    return _metrics(Field("metrics", "", metrics))


def _metrics(field: Field) -> MetricsRecord:
    schema = field["schema"].count()
    if schema != SCHEMA:
        raise field.wrong(f"has schema {schema}, this version reads schema {SCHEMA}")
    attacks = tuple(
        entry.record(AttackRecord, name=name) for name, entry in field["attacks"].entries()
    )
    columns = (*(attack.name for attack in attacks), WORST)
    models = tuple(_model(entry, columns) for entry in field["models"].items())
    names = [model.name for model in models]
    if len(set(names)) != len(names):
        raise field["models"].wrong(f"names must differ, got {', '.join(names)}")
    headline = field["headline"].text()
    if headline not in names:
        raise field["headline"].wrong(f"must be one of {', '.join(names)}, got {headline!r}")
    switch, text, methods = (field.find(name) for name in ("r2s", "text", "methods"))
    return field.record(
        MetricsRecord,
        threat=_threat(field["threat"]),
        attacks=attacks,
        models=models,
        switch=_switch(switch) if switch else None,
        findings=tuple(_finding(entry) for entry in field["findings"].items()),
        text=parse_text_attacks(text, names) if text else (),
        methods=tuple(one.record(MethodRecord) for one in methods.items()) if methods else (),
    )


def _threat(field: Field) -> ThreatRecord:
    bounds = field.find("bounds")
    limits = [limit.number() for limit in bounds.items()] if bounds else None
    if limits is not None and len(limits) != 2:
        raise field["bounds"].wrong(f"must be [low, high] or null, got {limits}")
    return field.record(ThreatRecord, bounds=tuple(limits) if limits else None)


def _model(field: Field, columns: tuple[str, ...]) -> ModelRecord:
    name = field["name"].text()
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", name):
        raise field["name"].wrong(f"must be usable as a folder's name, got {name!r}")
    kept, total = field["kept"].count(), field["total"].count()
    if kept > total:
        raise field.wrong(f"keeps {kept} of {total} weights")
    parameters = field.find("parameters")
    if parameters is not None and parameters.count() < total:
        raise parameters.wrong(f"must be at least the {total} weights that masks can cover")
    return field.record(
        ModelRecord,
        title=exact_title(field["title"].text(), field["density"].fraction()),
        robust={column: field["robust"][column].proportion() for column in columns},
        curve=tuple(_curve_point(point) for point in field["curve"].items()),
    )


def _curve_point(field: Field) -> CurvePoint:
    point = field.record(CurvePoint)
    if point.n < 1:
        raise field.wrong("needs n of at least 1")
    return point


def _switch(field: Field) -> SwitchRecord:
    headline = field["headline"].text()
    if headline not in SWITCH_ATTACKS or headline == "independent":
        raise field["headline"].wrong(
            f"must be an attack that knows of the switch (adaptive, eot or worst), got {headline!r}"
        )
    attacked = {name: field[name].proportion() for name in SWITCH_ATTACKS}
    return field.record(SwitchRecord, attacked=attacked)


def _costs(path: Path) -> CostsRecord | None:
    if not path.exists():
        return None
    field = parse_json(read_text(path), source=str(path))
    return field.record(CostsRecord, rows=tuple(_cost(row) for row in field["rows"].items()))


def _cost(field: Field) -> CostRecord:
    low, high = (quartile.number() for quartile in field["latency_quartiles"].items())
    uncounted = field.find("uncounted")
    return field.record(
        CostRecord,
        latency_quartiles=(low, high),
        uncounted=() if uncounted is None else tuple(name.text() for name in uncounted.items()),
    )


def _finding(field: Field) -> FindingRecord:
    figure = field.find("figure")
    return field.record(FindingRecord, figure="" if figure is None else str(figure.value))


def _history(path: Path) -> tuple[EpochRecord, ...]:
    lines = read_text(path).splitlines()
    return tuple(
        _epoch(parse_json(line, source=f"{path}, line {number}"))
        for number, line in enumerate(lines, start=1)
    )


def _epoch(field: Field) -> EpochRecord:
    own = field.find("figures")
    figures = {name: value.number() for name, value in own.entries()} if own else {}
    return field.record(EpochRecord, figures=figures)
