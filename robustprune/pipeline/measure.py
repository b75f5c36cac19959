"""The measuring stages: each model's accuracy under attack, and that of the ticket switch."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from attacks import PGD, Attack, ThreatModel, check_attacks
from robustprune.measure import (
    accuracy_curve,
    constant_answer,
    evaluate,
    evaluate_switch,
    expected_proportion,
    minimal_summary,
    nearest_adversarial,
    proportion,
)
from robustprune.pipeline.fit import Fitted
from robustprune.pipeline.shared import Run
from robustprune.run.checkpoint import write_atomically
from robustprune.run.constant import CHECK
from robustprune.run.runtime import seed_stage
from robustprune.search import RandomTicketSwitch
from robustprune.sparsity import full_masks

#: the number of sampled answers per gradient step of the EOT attack on a ticket switch
SWITCH_DRAWS = 10
#: the numbers of (examples, steps, queries) of the sanity checks
SANITY = (100, 20, 500)
#: the same for sentences, whose networks take a hundred times as long
SANITY_SENTENCES = (8, 10, 100)


def test_examples(run: Run) -> tuple[Tensor, Tensor]:
    """Return the test examples that are used for measuring, on the run's device."""
    x, y = run.task.test.batch(slice(run.config.evaluation.examples))
    return x.to(run.device), y.to(run.device)


def figures_of(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    attacks: Mapping[str, Attack],
    *,
    curve: PGD | None = None,
    minimal: int = 0,
    batch_size: int,
    title: str = "attacking",
    quiet: bool = True,
) -> dict[str, Any]:
    """Return a network's entries of metrics.json; its robust accuracies and r* are upper bounds.

    Args:
        x: (N, ...) and y: (N,), N at least 1.
        curve: the attack for the accuracies at growing ε; None leaves them out.
        minimal: number of examples whose r* is measured, the first ones; 0 leaves r* out.

    Returns:
        a mapping for JSON: clean, robust (by attack, and "worst"), curve, per_example (1: correct)
        and, where r* is measured, minimal and distances (null: no example was found).

    Raises:
        ValueError: as in `measure.evaluate`.
    """
    how: dict[str, Any] = {"batch_size": batch_size, "quiet": quiet}
    outcome = evaluate(model, x, y, attacks, title=title, **how)
    points: list[tuple[float, float]] = []
    if curve is not None:
        points = accuracy_curve(model, x, y, curve, outcome, title=f"{title}, growing eps", **how)
    results = {"clean": outcome.clean, **outcome.robust, "worst": outcome.worst}
    figures = {name: proportion(int(r.sum()), len(r)).to_json() for name, r in results.items()}
    found = {
        "clean": figures.pop("clean"),
        "robust": figures,
        "curve": [{"eps": eps, "value": value, "n": len(y)} for eps, value in points],
        "per_example": {name: r.int().tolist() for name, r in results.items()},
    }
    if minimal:
        x, y = x[:minimal], y[:minimal]
        nearest = nearest_adversarial(model, x, y, threat, title=f"{title}, r*", **how)
        found["minimal"] = minimal_summary(nearest, threat)
        found["distances"] = [r if math.isfinite(r) else None for r in nearest.r.tolist()]
    return found


def measure_model(run: Run, fitted: Fitted, *, minimal: bool = False) -> dict[str, Any]:
    """Return the model's entry in metrics.json, with its results per example in "per_example".

    minimal: whether r* is measured too, on the first `evaluation.minimal` examples.
    """
    file = f"measure/{fitted.name}.json"
    if run.folder.has(file):
        return dict(run.folder.read_json(file))
    seed_stage(run.config.seed, file)
    section, attacks = run.config.evaluation, run.evaluation_attacks()
    strongest = attacks[f"pgd{section.steps}"]
    assert isinstance(strongest, PGD)
    figures = figures_of(
        fitted.model,
        *test_examples(run),
        run.threat,
        attacks,
        curve=strongest if section.curve else None,
        minimal=section.minimal if minimal else 0,
        batch_size=section.batch_size,
        title=f"measuring {fitted.name}",
        quiet=run.quiet,
    )
    weights = run.folder.path / "models" / fitted.name / "model.safetensors"
    entry = {
        "name": fitted.name,
        "title": fitted.title,
        **_size(run, fitted),
        "file_bytes": weights.stat().st_size,
        **figures,
    }
    run.folder.write_json(file, entry)
    run.folder.log("measured", model=fitted.name)
    return entry


def _size(run: Run, fitted: Fitted) -> dict[str, Any]:
    """Return the numbers of kept and of all weights in maskable layers, with the dense ones, and
    the number of all parameters of the network."""
    layers = {layer.name: layer for layer in full_masks(run.fresh_model()).layers()}
    layers.update({layer.name: layer for layer in fitted.masks.layers()})
    kept = sum(layer.kept for layer in layers.values())
    total = sum(layer.total for layer in layers.values())
    return {
        "density": kept / total,
        "kept": kept,
        "total": total,
        "parameters": sum(parameter.numel() for parameter in fitted.model.parameters()),
        "layers": [
            {"name": one.name, "kept": one.kept, "total": one.total, "density": one.density}
            for one in layers.values()
        ],
    }


def measure_switch(run: Run, tickets: Sequence[Fitted]) -> dict[str, Any]:
    """Measure the random ticket switch over `tickets`: the entry "r2s" of metrics.json."""
    file = "measure/r2s.json"
    if run.folder.has(file):
        return dict(run.folder.read_json(file))
    section = run.config.evaluation
    x, y = test_examples(run)
    switch = RandomTicketSwitch([t.model for t in tickets], seed=run.config.seed)
    seed_stage(run.config.seed, file)
    pgd = run.evaluation_attacks()[f"pgd{section.steps}"]
    assert isinstance(pgd, PGD)
    outcome = evaluate_switch(
        switch,
        x,
        y,
        pgd,
        draws=SWITCH_DRAWS,
        batch_size=section.batch_size,
    )
    adaptive = expected_proportion(outcome.adaptive.tolist())
    eot = expected_proportion(outcome.eot.tolist())
    entry = {
        "densities": [t.masks.density for t in tickets],
        "draws": SWITCH_DRAWS,
        "clean": expected_proportion(outcome.clean.tolist()).to_json(),
        "independent": expected_proportion(outcome.independent.tolist()).to_json(),
        "adaptive": adaptive.to_json(),
        "eot": eot.to_json(),
        "worst": expected_proportion(outcome.worst.tolist()).to_json(),
        "headline": "adaptive" if adaptive.value <= eot.value else "eot",
    }
    run.folder.write_json(file, entry)
    run.folder.log("measured", model="r2s")
    return entry


def per_example_csv(
    entries: Iterable[dict[str, Any]], labels: Sequence[int], places: Sequence[int] | None = None
) -> str:
    """Return one line for each model and example, with 1 where the answer is correct.

    places: where each example is in the user's files, if the run has another order; a column more.
    """
    text = io.StringIO()
    writer: Any = None
    for entry in entries:
        results = entry["per_example"]
        if writer is None:
            writer = csv.writer(text, lineterminator="\n")
            head = ["model", "index", "label"] + (["place"] if places is not None else [])
            writer.writerow([*head, *(f"{name}_correct" for name in results)])
        for index, label in enumerate(labels):
            known = [entry["name"], index, label] + ([places[index]] if places is not None else [])
            writer.writerow([*known, *(r[index] for r in results.values())])
    return text.getvalue()


def sanity_checks(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    effort: tuple[int, int, int] = SANITY,
) -> list[dict[str, Any]]:
    """Return the results of `attacks.check_attacks` on the first examples, as values for JSON."""
    examples, steps, queries = effort
    x, y = x[:examples], y[:examples]
    return [
        {
            "name": check.name,
            "ok": check.passed,
            "figure": f"{check.figure:.3g}",
            "detail": f"{check.message} (n={len(y)})",
        }
        for check in check_attacks(model, x, y, threat, steps=steps, queries=queries)
    ]


def findings(
    run: Run, robust: Sequence[Fitted], entries: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Look for signs of masked gradients or of a broken evaluation (Carlini et al., arXiv
    1902.06705): all checks for the networks `robust`, which the run compares, and those of the
    measures for every network."""
    file = "measure/sanity.json"
    if run.folder.has(file):
        checks = list(run.folder.read_json(file))
    else:
        seed_stage(run.config.seed, file)
        x, y = test_examples(run)
        effort = SANITY if run.task.train.present is None else SANITY_SENTENCES
        checks = [
            {**check, "name": f"{fitted.name}: {check['name']}"}
            for fitted in robust
            for check in sanity_checks(fitted.model, x, y, run.threat, effort)
        ]
        run.folder.write_json(file, checks)
    strong = f"pgd{run.config.evaluation.steps}"
    labels = test_examples(run)[1].tolist()
    return checks + [check for entry in entries for check in signs_of(entry, labels, strong)]


def signs_of(entry: dict[str, Any], labels: Sequence[int], strong: str) -> list[dict[str, Any]]:
    """Check a model's entry in metrics.json; `strong` is the name of its iterated attack."""
    name, clean, right, curve = (entry[key] for key in ("name", "clean", "per_example", "curve"))
    single, iterated = entry["robust"]["fgsm"]["value"], entry["robust"][strong]["value"]
    checks: list[dict[str, Any]] = [
        {
            "name": f"{name}: iterated attack at least as strong as one step",
            "ok": iterated <= single,
            "figure": f"{strong} {iterated:.1%}, fgsm {single:.1%}",
            "detail": "an iterated attack weaker than one step points to masked gradients",
        }
    ]
    only = constant_answer(right["clean"], labels, right["worst"])
    if only is not None and all(point["value"] == clean["value"] for point in curve[-1:]):
        checks.append(
            {
                "name": f"{name}{CHECK}",
                "ok": False,
                "figure": f"{clean['value']:.1%}, attacked {iterated:.1%}",
                "detail": f"right on all of class {only} and on nothing else, under every "
                "attack: the same answer to everything, which no attack can change",
            }
        )
    elif curve:
        checks.append(
            {
                "name": f"{name}: accuracy reaches zero as eps grows",
                "ok": curve[-1]["value"] == 0.0,
                "figure": f"{curve[-1]['value']:.1%} at eps {curve[-1]['eps']:g}",
                "detail": "accuracy that stays up under any perturbation is not robustness",
            }
        )
    return checks


def write_per_example(run: Run, entries: Sequence[dict[str, Any]]) -> None:
    """Write per_example.csv and, where r* was measured, distances.json: model -> distances."""
    distances = {e["name"]: e["distances"] for e in entries if "distances" in e}
    if distances:
        run.folder.write_json("distances.json", distances)
    labels = test_examples(run)[1].tolist()
    places = None if run.task.places is None else run.task.places.tolist()
    write_atomically(run.folder.path / "per_example.csv", per_example_csv(entries, labels, places))
