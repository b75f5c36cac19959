"""The report's part on attacks that change the text itself: upper bounds, and the changed texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from attacks.text import TextResult
from robustprune.report.fields import Field, parse_json, read_text
from robustprune.report.records import TextAttackRecord
from robustprune.report.text_diffs import text_diffs
from robustprune.report.wording import count, interval, percent


@dataclass(frozen=True)
class TextAttackRow:
    """A row of the table of attacks on text, as text."""

    title: str
    attack: str
    is_headline: bool
    n: str
    clean: str
    attacked: str
    interval: str
    success_rate: str
    queries: str
    changed: str


def result_file(model: str, attack: str) -> str:
    """Return the file of a run in which the results of an attack are stored."""
    return f"text/{model}.{attack}.json"


def parse_text_attacks(field: Field, models: Sequence[str]) -> tuple[TextAttackRecord, ...]:
    """Read the list "text" of metrics.json.

    Raises:
        ValueError: a field is missing or impossible; the message names it.
    """
    return tuple(_record(entry, models) for entry in field.items())


def read_text_results(
    run_dir: Path, model: str, records: Sequence[TextAttackRecord]
) -> dict[str, tuple[TextResult, ...]]:
    """Read the results of each attack on one model's sentences: attack -> results.

    Raises:
        ValueError: a file is unreadable or malformed.
    """
    found = {}
    for record in records:
        path = run_dir / result_file(model, record.attack)
        if record.model == model and path.exists():
            content = parse_json(read_text(path), source=str(path))
            found[record.attack] = tuple(
                one.record(TextResult) for one in content["results"].items()
            )
    return found


def text_attack_rows(
    records: Sequence[TextAttackRecord], titles: Mapping[str, str], headline: str
) -> list[TextAttackRow]:
    """Return the table, with a row for each network and attack."""
    return [
        TextAttackRow(
            title=titles[record.model],
            attack=record.attack,
            is_headline=record.model == headline,
            n=count(record.attacked.n),
            clean=percent(record.clean.value),
            attacked=percent(record.attacked.value),
            interval=interval(record.attacked),
            success_rate=_percent(record.success_rate),
            queries="–" if record.mean_queries is None else f"{record.mean_queries:.0f}",
            changed=_percent(record.mean_changed),
        )
        for record in records
    ]


def attack_diffs(found: Mapping[str, Sequence[TextResult]]) -> dict[str, Markup]:
    """Return for each attack the sentences with which it succeeded, with every changed word
    marked."""
    diffs = {attack: text_diffs(results) for attack, results in found.items()}
    return {attack: diff for attack, diff in diffs.items() if diff}


def broken_sentence(found: Mapping[str, Sequence[TextResult]]) -> dict[str, Markup]:
    """Return the sentence that was broken with the fewest changed words, by the attack's name; it
    is empty if none was broken."""
    broken = [
        (result.share_changed, attack, result)
        for attack, results in found.items()
        for result in results
        if result.status == "success"
    ]
    if not broken:
        return {}
    _, attack, result = min(broken, key=lambda one: one[0])
    return {attack: text_diffs([result])}


def _record(field: Field, models: Sequence[str]) -> TextAttackRecord:
    model, attack = field["model"].text(), field["attack"].text()
    if model not in models:
        raise field["model"].wrong(f"must be one of {', '.join(models)}, got {model!r}")
    if not re.fullmatch(r"\w+", attack):
        raise field["attack"].wrong(f"must be a name of letters, digits and _, got {attack!r}")
    return field.record(TextAttackRecord)


def _percent(value: float | None) -> str:
    return "–" if value is None else percent(value)
