"""Read AdvGLUE and ANLI, sentences on which other networks failed, from a data folder.

They are test sets for classifiers of the GLUE task that they were made of:

    AdvGLUE/dev.json       {"sst2": [{"sentence": ..., "label": 0}, ...], "mnli": [...], ...}
                           (Wang et al. 2021, arXiv 2111.02840)
    ANLI/R1/test.jsonl     {"context": ..., "hypothesis": ..., "label": "e"} a line, and R2, R3
                           (Nie et al. 2020, arXiv 1910.14599)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from robustprune.packing import with_room
from robustprune.run.files import read_bytes
from robustprune.run.terminal import shown
from robustprune.tasks.folders import data_folder
from robustprune.tasks.lines import lines_of
from robustprune.tasks.series_files import there
from robustprune.tasks.task import Split
from robustprune.tasks.text import Encoder

ADVGLUE, ANLI = Path("AdvGLUE") / "dev.json", ("ANLI", "anli_v1.0")
#: the largest file, in bytes; the published ones have less than 2 MB
LARGEST = 64 * 2**20
_ROUNDS = ("R1", "R2", "R3")
_LETTERS = {"e": "entailment", "n": "neutral", "c": "contradiction"}
_NLI = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class _Source:
    """Where AdvGLUE has the sentences of a task: the keys of its lists, the fields of the one or
    two sentences, and the names of the classes 0, 1, ...."""

    keys: tuple[str, ...]
    fields: tuple[str, ...]
    classes: tuple[str, ...]


_SENTIMENT = _Source(("sst2",), ("sentence",), ("0", "1"))
SOURCES = {
    "sst2": _SENTIMENT,
    "sst2_sample": _SENTIMENT,
    "qqp": _Source(("qqp",), ("question1", "question2"), ("0", "1")),
    "mnli": _Source(("mnli", "mnli-mm"), ("premise", "hypothesis"), _NLI),
    "qnli": _Source(("qnli",), ("question", "sentence"), ("entailment", "not_entailment")),
}


def adversarial_sets(
    task: str, class_names: Sequence[str], encoder: Encoder, *, data_dir: Path | None = None
) -> dict[str, Split]:
    """Return the test sets of AdvGLUE and ANLI that fit a text task and that the folder has.

    AdvGLUE fits sst2, qqp, mnli and qnli; ANLI fits every task with the three classes of MNLI.

    Args:
        task: the name of the task, see `text.text_names`.
        class_names: its classes, in the order of its labels.
        encoder: the tokenizer of the model that will read the sentences.
        data_dir: the folder of the data sets, as in `load_task`.

    Returns:
        "AdvGLUE" and "ANLI R1" to "ANLI R3", as far as they are there; {} for none.

    Raises:
        ValueError: a file is too large, no JSON, or has another layout or label; or it is a link
            to somewhere else.
    """
    root, found = data_folder(data_dir), {}
    source = SOURCES.get(task)
    if source is not None and set(source.classes) == set(class_names) and there(root / ADVGLUE):
        found["AdvGLUE"] = list(_advglue(root / ADVGLUE, source, within=root))
    if set(_NLI) == set(class_names):
        for part in _ROUNDS:
            files = [root / folder / part / "test.jsonl" for folder in ANLI]
            file = next((one for one in files if there(one)), None)
            if file is not None:
                found[f"ANLI {part}"] = list(_anli(file, within=root))
    return {name: _split(rows, class_names, encoder) for name, rows in found.items()}


def _split(rows: Sequence[tuple[Any, ...]], class_names: Sequence[str], encoder: Encoder) -> Split:
    """Encode rows of one or two sentences and the name of a class."""
    columns = list(zip(*rows, strict=True))
    codes = encoder(columns[0], columns[1] if len(columns) == 3 else None)
    y = torch.tensor([list(class_names).index(name) for name in columns[-1]])
    return Split(codes, y, partial(with_room, width=encoder.width))


def _advglue(path: Path, source: _Source, *, within: Path) -> Iterator[tuple[str, ...]]:
    whole = _parsed(_text(path, within), str(path))
    for key in source.keys:
        rows = whole.get(key) if isinstance(whole, dict) else None
        if not isinstance(rows, list) or not rows:
            raise ValueError(
                f"{path} has no list {key!r}; give the dev.json of AdvGLUE as it was published"
            )
        for number, row in enumerate(rows):
            where = f"{path}, {key}, entry {number}"
            label = row.get("label") if isinstance(row, dict) else None
            if isinstance(label, bool) or str(label) not in map(str, range(len(source.classes))):
                raise ValueError(
                    f"{where} has the label {shown(repr(label))}; it must be one of 0 to "
                    f"{len(source.classes) - 1}"
                )
            yield *_sentences(row, source.fields, where), source.classes[int(str(label))]


def _anli(path: Path, *, within: Path) -> Iterator[tuple[str, ...]]:
    lines = [(n, line) for n, line in enumerate(lines_of(_text(path, within)), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path} has no lines; give a test.jsonl of ANLI as it was published")
    for number, line in lines:
        where = f"{path}, line {number}"
        row = _parsed(line, where)
        label = row.get("label") if isinstance(row, dict) else None
        if not isinstance(label, str) or label not in _LETTERS:
            raise ValueError(f"{where} has the label {shown(repr(label))}; it must be e, n or c")
        first = "context" if "context" in row else "premise"
        yield *_sentences(row, (first, "hypothesis"), where), _LETTERS[label]


def _sentences(row: Mapping[str, Any], fields: Sequence[str], where: str) -> list[str]:
    found = []
    for name in fields:
        value = row.get(name)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(
                f"{where} has no sentence in {name!r}; write one or leave the entry out"
            )
        found.append(value.strip())
    return found


def _text(path: Path, within: Path) -> str:
    try:
        return read_bytes(path, within=within, most=LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start:,}") from None


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON ({shown(error)}); correct it") from error
