"""The one straight line of a run: data, dense baselines, tickets, fine-tuning, measures,
certificates, report.

Each stage reads and writes files of the run directory and is skipped when its own are there.
"""

from __future__ import annotations

from typing import Any

from robustprune.minmax import Natural
from robustprune.pipeline.certify import certify_headline
from robustprune.pipeline.fit import Fitted, fit_dense, fit_finetuned, fit_ticket
from robustprune.pipeline.measure import findings, measure_model, measure_switch, write_per_example
from robustprune.pipeline.prepare import Run, prepare
from robustprune.report import write_report

__all__ = ["Run", "find_scratch_tickets", "prepare"]


def find_scratch_tickets(run: Run) -> dict[str, Any]:
    """Dense baselines, a ticket per density, fine-tuning, measures, certificates, report.

    Returns:
        the content of metrics.json.
    """
    config = run.config
    natural = fit_dense(run, "natural", Natural(), config.natural)
    adversarial = fit_dense(run, "adversarial", run.adversarial(), config.adversarial)
    source = {"random": None, "natural": natural, "adversarial": adversarial}[config.search.weights]
    prefix = "rst" if source is None else "rtt"
    tickets: list[Fitted] = []
    models = [natural, adversarial]
    for density in config.search.density:
        name = prefix if len(config.search.density) == 1 else f"{prefix}-{density:g}"
        tickets.append(fit_ticket(run, density, name, source))
        models.append(tickets[-1])
        models += [fit_finetuned(run, tickets[-1], mode) for mode in config.finetune.modes]

    entries = [measure_model(run, fitted) for fitted in models]
    switched = config.evaluation.switch and len(tickets) > 1
    switch = measure_switch(run, tickets) if switched else None
    write_per_example(run, entries)
    checks = findings(run, tickets[0], entries)
    metrics = _metrics(run, entries, switch, checks, headline=tickets[0].name)
    run.folder.write_json("metrics.json", metrics)
    run.folder.publish(tickets[0].name)
    certify_headline(run, tickets[0])
    write_report(run.folder.path)
    run.folder.log("report")
    return metrics


def _metrics(
    run: Run,
    entries: list[dict[str, Any]],
    switch: dict[str, Any] | None,
    checks: list[dict[str, Any]],
    *,
    headline: str,
) -> dict[str, Any]:
    config, task = run.config, run.task
    return {
        "schema": 1,
        "run": config.name,
        "seed": config.seed,
        "headline": headline,
        "task": {
            "name": task.name,
            "source": task.source,
            "num_classes": task.num_classes,
            "n_train": len(run.training),
            "n_validation": len(run.held_out) if run.held_out is not None else 0,
            "n_test": len(task.test),
            "input_shape": list(task.input_shape),
        },
        "threat": {
            "norm": config.threat.norm,
            "eps": config.threat.eps,
            "bounds": list(task.bounds) if task.bounds else None,
            "unit": "input units",
        },
        "attacks": {
            name: {"description": repr(attack), "bound": "upper"}
            for name, attack in run.evaluation_attacks().items()
        },
        "models": [{k: v for k, v in e.items() if k != "per_example"} for e in entries],
        "r2s": switch,
        "findings": checks,
    }
