"""Run all stages in order: data, dense baselines, searches, fine-tuning, measures, certificates,
report.

Each stage reads and writes files of the run directory, and is skipped if its files exist. Runs on
causal language models are in `causal`, which is imported only for them, because it needs
transformers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from robustprune.pipeline.attack_text import attack_text
from robustprune.pipeline.cost import measure_cost
from robustprune.pipeline.fit import Fitted, fit_dense, fit_finetuned
from robustprune.pipeline.measure import findings, measure_model, measure_switch, write_per_example
from robustprune.pipeline.methods import methods_of
from robustprune.pipeline.pictured import keep_example
from robustprune.pipeline.plan import headline_names
from robustprune.pipeline.prepare import prepare
from robustprune.pipeline.run_certificates import certify_networks
from robustprune.pipeline.searches import Sources
from robustprune.pipeline.shared import Run
from robustprune.pipeline.trust import trust_classifier
from robustprune.pipeline.trust_page import Asked
from robustprune.report import write_report
from robustprune.run.runtime import is_first
from robustprune.run.settings import SelectionSection

__all__ = ["Run", "find_sparse_networks", "prepare"]


def find_sparse_networks(run: Run) -> dict[str, Any]:
    """Run a config: train the dense baselines, run each method's search at each density, fine-tune,
    measure, certify and write the report.

    Returns:
        The content of metrics.json.

    Raises:
        ValueError: another process uses the run directory, or a file there is damaged.
    """
    with run.folder.alone():
        return _stages(run)


def _stages(run: Run) -> dict[str, Any]:
    config = run.config
    sources = Sources(
        natural=fit_dense(run, "natural", config.natural, robust=False),
        adversarial=_adversarial(run),
    )
    run = replace(run, teacher=sources.adversarial.model)
    models = [sources.natural, sources.adversarial]
    if config.selection.method != "none":
        models.insert(1, _adversarial_on_all(run))
    scratch: list[Fitted] = []  # the tickets of the random ticket switch
    for method in methods_of(config):
        for density in method.densities(config):
            found = method.search(run, density, method.model_name(config, density), sources)
            scratch += [found.ticket] if method.scratch else []
            models += [found.ticket, *found.controls]
            if not method.trained:
                models += [fit_finetuned(run, found.ticket, m) for m in config.finetune.modes]

    headline = _headline(run, models)
    compared = (sources.natural.name, sources.adversarial.name, headline.name)
    entries = [measure_model(run, f, minimal=f.name in compared) for f in models]
    text = [row for f in models if f.name in compared for row in attack_text(run, f)]
    switched = config.evaluation.switch and len(scratch) > 1
    switch = measure_switch(run, scratch) if switched else None
    write_per_example(run, entries)
    keep_example(run, [f for f in models if f.name in compared], headline, entries)
    robust = {fitted.name: fitted for fitted in (headline, sources.adversarial)}
    checks = findings(run, list(robust.values()), entries)
    metrics = _metrics(run, entries, switch, checks, text, headline=headline.name)
    run.folder.write_json("metrics.json", metrics)
    run.folder.publish(headline.name)
    if is_first():
        measure_cost(run, sources.adversarial, headline)
    certify_networks(run, headline, models)
    if is_first():
        write_report(run.folder.path)
        if config.trust.examples is not None:
            asked = Asked.of(config.trust)
            trust_classifier(
                run.folder, config, run.task, asked, data_dir=run.data_dir, device=run.device,
                quiet=run.quiet,
            )  # fmt: skip
    run.folder.log("report")
    return metrics


def _adversarial(run: Run) -> Fitted:
    section, method = run.config.adversarial, run.config.selection.method
    title = None if method == "none" else f"adversarial dense, examples chosen by {method}"
    return fit_dense(run, "adversarial", section, robust=True, title=title)


def _adversarial_on_all(run: Run) -> Fitted:
    """Train on all examples, which is the control of training on chosen ones."""
    config = run.config.model_copy(update={"selection": SelectionSection()})
    title = "adversarial dense, all examples"
    everyone = replace(run, config=config)
    return fit_dense(everyone, "adversarial_all", config.adversarial, robust=True, title=title)


def _headline(run: Run, models: list[Fitted]) -> Fitted:
    by_name = {fitted.name: fitted for fitted in models}
    return next(by_name[name] for name in headline_names(run.config) if name in by_name)


def _metrics(
    run: Run,
    entries: list[dict[str, Any]],
    switch: dict[str, Any] | None,
    checks: list[dict[str, Any]],
    text: list[dict[str, Any]],
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
            "unit": "word embeddings of a sentence" if run.task.texts else "input units",
        },
        "attacks": {
            name: {"description": repr(attack), "bound": "upper"}
            for name, attack in run.evaluation_attacks().items()
        },
        "models": [
            {k: v for k, v in e.items() if k not in ("per_example", "distances")} for e in entries
        ],
        "methods": [
            {"title": method.title_of(config), "meaning": method.summary}
            for method in methods_of(config)
        ],
        "r2s": switch,
        **({"text": text} if text else {}),
        "findings": checks,
    }
