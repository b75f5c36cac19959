"""Tables of labelled sentences: the layouts of GLUE, AG News and IMDB, and people's own files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustprune.tasks.series_formats import read_text

_SUFFIXES = (".tsv", ".csv")
#: columns that a table of one's own may have; the first one found counts
_FIRST = ("sentence", "text", "sentence1")
_SECOND = ("sentence2", "text_pair")
_LABEL = ("label",)


@dataclass(frozen=True)
class Sentences:
    """Labelled sentences, or pairs of them.

    Attributes:
        first: N sentences.
        second: the second halves of pairs, or None.
        labels: N labels as they are written.
    """

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def written(self) -> tuple[str, ...]:
        """N strings: the sentences, or the pairs with a tab between their two halves."""
        if self.second is None:
            return self.first
        pairs = zip(self.first, self.second, strict=True)
        return tuple("\t".join(half.replace("\t", " ") for half in pair) for pair in pairs)


@dataclass(frozen=True)
class Layout:
    """Where a data set's tables are and which columns count.

    Attributes:
        folder: under the data directory.
        train, test: file names; GLUE publishes no labels for its test sets, so that its dev set
            stands for the test.
        first: the columns of the (first) sentence; several are joined by a space.
        second: the column of the second sentence of pairs.
    """

    folder: str
    train: str
    test: str
    first: tuple[str, ...]
    label: str
    second: str | None = None


LAYOUTS = {
    "sst2": Layout("SST-2", "train.tsv", "dev.tsv", ("sentence",), "label"),
    "ag_news": Layout("AGNews", "train.csv", "test.csv", ("title", "description"), "label"),
    "imdb": Layout("IMDB", "train.csv", "test.csv", ("text",), "label"),
    "qnli": Layout("QNLI", "train.tsv", "dev.tsv", ("question",), "label", "sentence"),
    "qqp": Layout("QQP", "train.tsv", "dev.tsv", ("question1",), "is_duplicate", "question2"),
    "mnli": Layout(
        "MNLI", "train.tsv", "dev_matched.tsv", ("sentence1",), "gold_label", "sentence2"
    ),
}


def read_layout(layout: Layout, root: Path) -> tuple[Sentences, Sentences]:
    """Train and test of a data set under `root`.

    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: a file without the columns that count.
    """
    train, test = (
        read_sentences(
            _file(root / layout.folder / name), layout.first, layout.label, layout.second
        )
        for name in (layout.train, layout.test)
    )
    return train, test


def read_own(folder: Path) -> tuple[Sentences, Sentences]:
    """train.tsv (or .csv) and test.tsv or dev.tsv in one's own folder.

    The header names the columns: sentence (or text, or sentence1), label, and for pairs
    sentence2 (or text_pair).

    Raises:
        FileNotFoundError, ValueError: as `read_layout`.
    """
    found = []
    for names in (("train",), ("test", "dev")):
        options = [folder / f"{name}{suffix}" for name in names for suffix in _SUFFIXES]
        path = next((option for option in options if option.is_file()), None)
        if path is None:
            raise FileNotFoundError(f"none of {', '.join(map(str, options))} is there")
        header, _ = _rows(path)
        first = _column(path, header, _FIRST)
        label = _column(path, header, _LABEL)
        second = next((name for name in _SECOND if name in header), None)
        found.append(read_sentences(path, (first,), label, second))
    return found[0], found[1]


def read_sentences(
    path: Path, first: Sequence[str], label: str, second: str | None = None
) -> Sentences:
    """The columns of one table. A .tsv has no quoting, as in GLUE; a .csv has.

    Raises:
        ValueError: a missing column, no rows, or an empty sentence.
    """
    header, rows = _rows(path)
    for name in (*first, label, *([second] if second else [])):
        _column(path, header, (name,))
    where = {name: header.index(name) for name in header}
    if not rows:
        raise ValueError(f"{path} has no rows below its header")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(
                f"{path}, row {number} has {len(row)} columns, the header has {len(header)}"
            )
        if not all(row[where[name]].strip() for name in (first[0], label)):
            raise ValueError(f"{path}, row {number} has an empty sentence or label")
    return Sentences(
        tuple(" ".join(row[where[name]].strip() for name in first) for row in rows),
        None if second is None else tuple(row[where[second]].strip() for row in rows),
        tuple(row[where[label]].strip() for row in rows),
    )


def parse_table(text: str, *, tabs: bool) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table; blank lines are passed over."""
    lines = io.StringIO(text)
    reader = (
        csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines)
    )
    rows = [row for row in reader if row]
    return (rows[0], rows[1:]) if rows else ([], [])


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    return parse_table(read_text(path), tabs=path.suffix == ".tsv")


def _column(path: Path, header: Sequence[str], names: Sequence[str]) -> str:
    for name in names:
        if name in header:
            return name
    raise ValueError(
        f"{path} has no column {' or '.join(map(repr, names))}; its header is "
        f"{', '.join(header) or '(empty)'}"
    )


def _file(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path}; put the data set there, or name another data_dir"
        )
    return path
