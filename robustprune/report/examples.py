"""Read per_example.csv, which says which test examples each network classifies correctly."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from robustprune.report.arrays import AnswersRecord
from robustprune.report.fields import read_text
from robustprune.report.records import MetricsRecord
from robustprune.run.terminal import shown

Lines = Mapping[str, Sequence[Mapping[str, str]]]
_CLEAN, _WORST = "clean_correct", "worst_correct"


def read_examples(path: Path, headline: str) -> Lines:
    """Return the lines of each network, in the order of the file.

    Raises:
        ValueError: the headline model has no line, or a label is no whole number.
    """
    lines: dict[str, list[dict[str, str]]] = {}
    reader = csv.DictReader(read_text(path).splitlines())
    try:
        for line in reader:
            int(line["label"])
            lines.setdefault(line["model"], []).append(line)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} has no whole-number label on line {reader.line_num}") from error
    if headline not in lines:
        raise ValueError(f"{path} has no line of model {shown(repr(headline))}")
    return lines


def read_answers(lines: Lines, metrics: MetricsRecord, *, source: str) -> dict[str, AnswersRecord]:
    """Return which examples each network classifies correctly, or {} if the file does not say.

    Raises:
        ValueError: an entry is neither 0 nor 1, or the number of correct answers differs from
            metrics.json.
    """
    if any(one not in line for found in lines.values() for line in found[:1] for one in _COLUMNS):
        return {}
    answers = {}
    for model in metrics.models:
        found = lines.get(model.name, ())
        columns = [_column(found, name, source) for name in _COLUMNS]
        for told, right, name in zip((model.clean, model.worst), columns, _COLUMNS, strict=True):
            if len(right) != told.n or abs(right.sum() - told.value * told.n) > 0.5:
                raise ValueError(
                    f"{source} has {int(right.sum())} of {len(right)} as {name} of model "
                    f"{model.name}, but metrics.json says {told.value:.4g} of {told.n}"
                )
        answers[model.name] = AnswersRecord(*columns)
    return answers


_COLUMNS = (_CLEAN, _WORST)


def _column(lines: Sequence[Mapping[str, str]], name: str, source: str) -> np.ndarray:
    values = [line[name] for line in lines]
    wrong = next((value for value in values if value not in ("0", "1")), None)
    if wrong is not None or None in values:
        raise ValueError(f"{source}: {name} must be 0 or 1, got {shown(repr(wrong))}")
    return np.array(values, dtype=np.int64).astype(np.bool_)
