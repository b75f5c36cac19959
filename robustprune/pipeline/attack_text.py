"""The stage that attacks the text itself, in runs on text."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from attacks.text import TextAttack, TextResult, recheck, summarise, worst_case
from robustprune.measure import proportion
from robustprune.pipeline.fit import Fitted
from robustprune.pipeline.shared import Run
from robustprune.pipeline.text import TEXT_ATTACKS, classifier_of, text_attacks
from robustprune.report.records import WORST
from robustprune.report.text_attacks import result_file


def attack_text(run: Run, fitted: Fitted) -> list[dict[str, Any]]:
    """Return a model's rows of "text" in metrics.json: one for each attack, and the worst case.

    The texts that an attack wrote are stored in text/<model>.<attack>.json.
    """
    rows: list[dict[str, Any]] = []
    found: list[list[TextResult]] = []
    for name, attack in text_attacks(run.config, run.device).items():
        file = result_file(fitted.name, name)
        if run.folder.has(file):
            content = run.folder.read_json(file)
        else:
            content = _attacked(run, fitted, name, attack)
            run.folder.write_json(file, content)
            run.folder.log("attacked text", model=fitted.name, attack=name)
        rows.append(content["row"])
        found.append([TextResult(**result) for result in content["results"]])
    if len(found) > 1:
        description = "per sentence, over all attacks on the text; queries are those of all"
        rows.append(_row(fitted.name, WORST, description, worst_case(found)))
    return rows


def _attacked(run: Run, fitted: Fitted, name: str, attack: TextAttack) -> dict[str, Any]:
    """Attack the first test sentences, and check every success again."""
    texts, section = run.task.texts, run.config.evaluation
    assert texts is not None, "`check_text` refuses tasks without text"
    count = min(section.sentences, len(texts))
    classify = classifier_of(run.config, texts, fitted.model)
    labels = run.task.test.y[:count].tolist()
    results = recheck(classify, attack(classify, texts[:count], labels))
    summary = (inspect.getdoc(TEXT_ATTACKS[name]) or "").partition("\n")[0].removesuffix(".")
    description = f"{summary}; at most {section.queries} queries a sentence"
    return {
        "row": _row(fitted.name, name, description, results),
        "results": [asdict(result) for result in results],
    }


def _row(
    model: str, attack: str, description: str, results: Sequence[TextResult]
) -> dict[str, Any]:
    summary = summarise(results)
    attacked = [result for result in results if result.status != "skipped"]
    kept = sum(result.status == "failed" for result in attacked)
    means = {
        name: None if math.isnan(value) else value
        for name in ("success_rate", "mean_queries", "mean_changed")
        for value in (getattr(summary, name),)
    }
    return {
        "model": model,
        "attack": attack,
        "description": description,
        "clean": proportion(len(attacked), len(results)).to_json(),
        "attacked": proportion(kept, len(results)).to_json(),
        **means,
    }
