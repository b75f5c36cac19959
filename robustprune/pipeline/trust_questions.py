"""Questions and summaries for language models, from JSON lines in the data folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustprune.measure import Question, Summary
from robustprune.run.files import read_bytes
from robustprune.run.terminal import shown

#: the files in the data folder, and the largest one in bytes
FOLDER, RETRIEVAL, SUMMARIES = "questions", "retrieval.jsonl", "summaries.jsonl"
LARGEST = 64 * 2**20


@dataclass(frozen=True)
class Asks:
    """What a data folder asks for.

    Attributes:
        retrieval: questions whose context holds the answer.
        summaries: texts and their summaries.
    """

    retrieval: tuple[Question, ...] = ()
    summaries: tuple[Summary, ...] = ()


def read_asks(data_dir: Path, number: int) -> Asks:
    r"""Return the first `number` lines of the files that the folder has.

        questions/retrieval.jsonl   {"context": "...", "options": [" red", " blue"], "answer": 0}
        questions/summaries.jsonl   {"prompt": "... In short:", "summary": "..."}

    Raises:
        ValueError: a file is too large, a link to elsewhere, no UTF-8 or no JSON, or a line has
            other fields.
    """
    found: list[list[Any]] = []
    for name, read in ((RETRIEVAL, _question), (SUMMARIES, _summary)):
        path = data_dir / FOLDER / name
        there = path.exists() or path.is_symlink()
        found.append(list(_lines(path, read, data_dir, number)) if there else [])
    return Asks(tuple(found[0]), tuple(found[1]))


def _lines(
    path: Path, read: Callable[[dict[str, Any]], Any], within: Path, number: int
) -> Iterator[Any]:
    try:
        text = read_bytes(path, within=within, most=LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start:,}") from None
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path} has no lines; write some or remove it")
    for place, line in lines[:number]:
        try:
            row = json.loads(line)
            yield read(row if isinstance(row, dict) else {})
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {place}: {shown(error)}") from error


def _question(row: dict[str, Any]) -> Question:
    options, answer = row.get("options"), row.get("answer")
    if not isinstance(options, list) or len(options) < 2:
        raise ValueError('"options" must be a list of two or more texts')
    if type(answer) is not int or not 0 <= answer < len(options):
        raise ValueError(f'"answer" must be a place in "options", 0 to {len(options) - 1}')
    if not all(isinstance(one, str) and one for one in options) or len({*options}) < len(options):
        raise ValueError('every one of "options" must be a text, and no two the same')
    return Question(_text(row, "context"), tuple(options), answer)


def _summary(row: dict[str, Any]) -> Summary:
    return Summary(_text(row, "prompt"), _text(row, "summary"))


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'"{name}" must be a text that is not empty')
    return value
