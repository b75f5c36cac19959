"""Read a run directory, and refuse content that would make the report wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from robustprune.certify import read_certificates
from robustprune.certify.certificate import FILE
from robustprune.report.examples import answers_of, read_examples
from robustprune.report.fields import Field, parse_json, read_text
from robustprune.report.records import (
    WORST,
    AttackRecord,
    CostRecord,
    CostsRecord,
    CurvePoint,
    EpochRecord,
    FindingRecord,
    LayerRecord,
    MetricsRecord,
    MinimalRecord,
    ModelRecord,
    RunRecord,
    SwitchRecord,
    TaskRecord,
    ThreatRecord,
)
from robustprune.report.selection import read_selections
from robustprune.report.text_attacks import parse_text_attacks, read_text_results
from robustprune.report.wording import exact_title

SCHEMA = 1
NORMS = ("linf", "l2", "l1")
BOUNDS = ("upper", "lower")
SWITCH_ATTACKS = ("adaptive", "eot", WORST, "independent")


def collect(run_dir: Path) -> RunRecord:
    """Read the files of a run for its report.

    These are config.yaml, env.json, metrics.json, per_example.csv and each model's history.jsonl;
    and, if they exist, cost.json, certificates.jsonl, the models' selection.safetensors and the
    results of attacks on text.

    Raises:
        ValueError: a file is missing, unreadable or malformed; the message names it.
    """
    metrics_path = run_dir / "metrics.json"
    metrics = _metrics(parse_json(read_text(metrics_path), source=str(metrics_path)))
    examples = read_examples(run_dir / "per_example.csv", metrics.headline)
    env_path, proofs = run_dir / "env.json", run_dir / FILE
    env = parse_json(read_text(env_path), source=str(env_path))
    return RunRecord(
        metrics=metrics,
        costs=_costs(run_dir / "cost.json"),
        certificates=read_certificates(proofs) if proofs.exists() else None,
        labels=tuple(int(line["label"]) for line in examples[metrics.headline]),
        answers=answers_of(examples, metrics, source=str(run_dir / "per_example.csv")),
        texts=read_text_results(run_dir, metrics.headline, metrics.text),
        selections=read_selections(run_dir, [model.name for model in metrics.models]),
        histories={
            model.name: _history(run_dir / "models" / model.name / "history.jsonl")
            for model in metrics.models
        },
        config=read_text(run_dir / "config.yaml"),
        environment={key: str(value) for key, value in env.mapping().items()},
    )


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
    attacks = tuple(_attack(name, entry) for name, entry in field["attacks"].entries())
    columns = (*(attack.name for attack in attacks), WORST)
    models = tuple(_model(entry, columns) for entry in field["models"].items())
    names = [model.name for model in models]
    if len(set(names)) != len(names):
        raise field["models"].wrong(f"names must differ, got {', '.join(names)}")
    headline = field["headline"].text()
    if headline not in names:
        raise field["headline"].wrong(f"must be one of {', '.join(names)}, got {headline!r}")
    switch, text = field.find("r2s"), field.find("text")
    return MetricsRecord(
        run=field["run"].text(),
        seed=field["seed"].count(),
        headline=headline,
        task=_task(field["task"]),
        threat=_threat(field["threat"]),
        attacks=attacks,
        models=models,
        switch=_switch(switch) if switch else None,
        findings=tuple(_finding(entry) for entry in field["findings"].items()),
        text=parse_text_attacks(text, names) if text else (),
    )


def _task(field: Field) -> TaskRecord:
    return TaskRecord(
        name=field["name"].text(),
        source=field["source"].text(),
        num_classes=field["num_classes"].count(),
        n_train=field["n_train"].count(),
        n_validation=field["n_validation"].count(),
        n_test=field["n_test"].count(),
        input_shape=tuple(size.count() for size in field["input_shape"].items()),
    )


def _threat(field: Field) -> ThreatRecord:
    bounds = field.find("bounds")
    limits = [limit.number() for limit in bounds.items()] if bounds else None
    if limits is not None and len(limits) != 2:
        raise field["bounds"].wrong(f"must be [low, high] or null, got {limits}")
    return ThreatRecord(
        norm=_choice(field["norm"], NORMS),
        eps=field["eps"].number(),
        bounds=(limits[0], limits[1]) if limits else None,
        unit=field["unit"].text(),
    )


def _attack(name: str, field: Field) -> AttackRecord:
    return AttackRecord(
        name=name,
        description=field["description"].text(),
        bound=_choice(field["bound"], BOUNDS),
    )


def _model(field: Field, columns: tuple[str, ...]) -> ModelRecord:
    name = field["name"].text()
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", name):
        raise field["name"].wrong(f"must be usable as a folder's name, got {name!r}")
    kept, total = field["kept"].count(), field["total"].count()
    if kept > total:
        raise field.wrong(f"keeps {kept} of {total} weights")
    density = field["density"].fraction()
    return ModelRecord(
        name=name,
        title=exact_title(field["title"].text(), density),
        density=density,
        kept=kept,
        total=total,
        file_bytes=field["file_bytes"].count(),
        clean=field["clean"].proportion(),
        robust={column: field["robust"][column].proportion() for column in columns},
        curve=tuple(_curve_point(point) for point in field["curve"].items()),
        layers=tuple(_layer(layer) for layer in field["layers"].items()),
        minimal=_minimal(minimal) if (minimal := field.find("minimal")) else None,
    )


def _minimal(field: Field) -> MinimalRecord:
    quantiles = {
        name: value.number() if (value := field.find(name)) else None
        for name in ("q25", "median", "q75")
    }
    return MinimalRecord(
        norm=_choice(field["norm"], NORMS),
        n=field["n"].count(),
        success_rate=field["success_rate"].fraction(),
        **quantiles,
    )


def _curve_point(field: Field) -> CurvePoint:
    point = CurvePoint(field["eps"].number(), field["value"].fraction(), field["n"].count())
    if point.n < 1:
        raise field.wrong("needs n of at least 1")
    return point


def _layer(field: Field) -> LayerRecord:
    return LayerRecord(
        name=field["name"].text(),
        kept=field["kept"].count(),
        total=field["total"].count(),
        density=field["density"].fraction(),
    )


def _switch(field: Field) -> SwitchRecord:
    headline = field["headline"].text()
    if headline not in SWITCH_ATTACKS or headline == "independent":
        raise field["headline"].wrong(
            f"must be an attack that knows of the switch (adaptive, eot or worst), got {headline!r}"
        )
    return SwitchRecord(
        densities=tuple(density.fraction() for density in field["densities"].items()),
        draws=field["draws"].count(),
        clean=field["clean"].proportion(),
        attacked={name: field[name].proportion() for name in SWITCH_ATTACKS},
        headline=headline,
    )


def _costs(path: Path) -> CostsRecord | None:
    if not path.exists():
        return None
    field = parse_json(read_text(path), source=str(path))
    rows = tuple(_cost(row) for row in field["rows"].items())
    return CostsRecord(field["headline"].text(), field["note"].text(), rows)


def _cost(field: Field) -> CostRecord:
    low, high = (quartile.number() for quartile in field["latency_quartiles"].items())
    whole = ("parameters", "nonzeros", "macs", "effective_macs", "file_bytes")
    uncounted = field.find("uncounted")
    return CostRecord(
        name=field["name"].text(),
        latency=field["latency"].number(),
        latency_quartiles=(low, high),
        batch_size=field["batch_size"].count(),
        threads=field["threads"].count(),
        device=field["device"].text(),
        uncounted=() if uncounted is None else tuple(name.text() for name in uncounted.items()),
        **{name: field[name].count() for name in whole},
    )


def _finding(field: Field) -> FindingRecord:
    figure = field.find("figure")
    return FindingRecord(
        name=field["name"].text(),
        ok=field["ok"].truth(),
        figure="" if figure is None else str(figure.value),
        detail=field["detail"].text(),
    )


def _history(path: Path) -> tuple[EpochRecord, ...]:
    lines = read_text(path).splitlines()
    return tuple(
        _epoch(parse_json(line, source=f"{path}, line {number}"))
        for number, line in enumerate(lines, start=1)
    )


def _epoch(field: Field) -> EpochRecord:
    measured = {
        name: value.fraction() if (value := field.find(name)) else None
        for name in ("clean", "robust", "val_clean", "val_robust")
    }
    own = field.find("figures")
    figures = {name: value.number() for name, value in own.entries()} if own else {}
    return EpochRecord(
        epoch=field["epoch"].count(), loss=field["loss"].number(), figures=figures, **measured
    )


def _choice(field: Field, allowed: tuple[str, ...]) -> str:
    if field.text() not in allowed:
        raise field.wrong(f"must be one of {', '.join(allowed)}, got {field.text()!r}")
    return field.text()
