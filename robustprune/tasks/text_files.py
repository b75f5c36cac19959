"""Read tables of labelled sentences: GLUE, AG News, IMDB, and the user's own files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustprune.run.files import plain_file
from robustprune.run.terminal import shown
from robustprune.tasks.labels import check_labels
from robustprune.tasks.lines import read_text, rows_of
from robustprune.tasks.series_files import there

_SUFFIXES = (".tsv", ".csv")
#: names of the columns in a user's own table; the first one that is found is used
_FIRST = ("sentence", "text", "sentence1")
_SECOND = ("sentence2", "text_pair")
_LABEL = ("label",)


@dataclass(frozen=True)
class Sentences:
    """Labelled sentences, or labelled pairs of sentences.

    Attributes:
        first: the N sentences, or the first sentences of N pairs.
        second: the second sentences of the pairs, or None.
        labels: the N labels as they are written.
    """

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def written(self) -> tuple[str, ...]:
        """Return N strings: the sentences, or the pairs with a tab between the two sentences."""
        if self.second is None:
            return self.first
        pairs = zip(self.first, self.second, strict=True)
        return tuple("\t".join(half.replace("\t", " ") for half in pair) for pair in pairs)


@dataclass(frozen=True)
class Layout:
    """The place of a data set's tables, and the columns that are read.

    Attributes:
        folder: the name of the folder in the data directory.
        train, test: the file names. GLUE publishes no labels for its test sets, so its dev set is
            the test set here.
        first: the columns of the (first) sentence; several are joined by a space.
        label: the column of the label.
        second: the column of the second sentence of pairs.
        unlabelled: a text that stands for a missing label, besides those that `labels.check_labels`
            knows.
    """

    folder: str
    train: str
    test: str
    first: tuple[str, ...]
    label: str
    second: str | None = None
    unlabelled: str | None = None


LAYOUTS = {
    "sst2": Layout("SST-2", "train.tsv", "dev.tsv", ("sentence",), "label"),
    "ag_news": Layout("AGNews", "train.csv", "test.csv", ("title", "description"), "label"),
    "imdb": Layout("IMDB", "train.csv", "test.csv", ("text",), "label"),
    "qnli": Layout("QNLI", "train.tsv", "dev.tsv", ("question",), "label", "sentence"),
    "qqp": Layout("QQP", "train.tsv", "dev.tsv", ("question1",), "is_duplicate", "question2"),
    "mnli": Layout(
        "MNLI", "train.tsv", "dev_matched.tsv", ("sentence1",), "gold_label", "sentence2", "-"
    ),
}


def read_layout(layout: Layout, root: Path) -> tuple[Sentences, Sentences]:
    """Read train and test of a data set in the folder `root`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: `read_sentences` refuses a file, or a label is the text that stands for a
            missing one.
    """
    found = []
    for file in (root / layout.folder / name for name in (layout.train, layout.test)):
        if not there(file):
            raise FileNotFoundError(
                f"there is no file {file}; put the data set there, or name another data_dir"
            )
        part = read_sentences(file, layout.first, layout.label, layout.second, within=root)
        if layout.unlabelled in part.labels:
            count = part.labels.count(str(layout.unlabelled))
            raise ValueError(
                f"{file}: {count} labels are '{layout.unlabelled}', which says that there is none; "
                "remove these rows"
            )
        found.append(part)
    return found[0], found[1]


def read_own(folder: Path) -> tuple[Sentences, Sentences]:
    """Read train.tsv (or .csv) and test.tsv or dev.tsv (or .csv) in the user's own folder.

    The header names the columns: sentence (or text, or sentence1), label, and for pairs sentence2
    (or text_pair).

    Raises:
        FileNotFoundError, ValueError: as in `read_layout`.
    """
    found = []
    for names in (("train",), ("test", "dev")):
        options = [folder / f"{name}{suffix}" for name in names for suffix in _SUFFIXES]
        path = next((option for option in options if there(option)), None)
        if path is None:
            raise FileNotFoundError(f"none of {', '.join(map(str, options))} is there; add one")
        header, _ = _rows(plain_file(path, within=folder))
        first = _column(path, header, _FIRST)
        label = _column(path, header, _LABEL)
        second = next((name for name in _SECOND if name in header), None)
        found.append(read_sentences(path, (first,), label, second))
    return found[0], found[1]


def read_sentences(
    path: Path,
    first: Sequence[str],
    label: str,
    second: str | None = None,
    *,
    within: Path | None = None,
) -> Sentences:
    """Read the columns of one table. A .csv may have quoted fields; a .tsv has none, as in GLUE.

    Raises:
        ValueError: a column is missing or there twice, there are no rows, a sentence is empty, a
            label is missing (see `labels.check_labels`), or `lines.rows_of` or
            `run.files.plain_file` refuses the file.
    """
    header, numbered = _rows(path, within)
    for name in (*first, label, *([second] if second else [])):
        _column(path, header, (name,))
    where = {name: header.index(name) for name in header}
    if not numbered:
        raise ValueError(f"{path} has no rows below its header")
    for row, line in numbered:
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {line}: a row of {len(row)} columns, the header has {len(header)}"
            )
        if not row[where[first[0]]].strip():
            raise ValueError(f"{path}, line {line}: the sentence is empty; write or remove it")
    rows = [row for row, _ in numbered]
    labels = tuple(row[where[label]].strip() for row in rows)
    check_labels(labels, lambda index: f"{path}, line {numbered[index][1]}")
    return Sentences(
        tuple(" ".join(row[where[name]].strip() for name in first) for row in rows),
        None if second is None else tuple(row[where[second]].strip() for row in rows),
        labels,
    )


def parse_table(
    text: str, *, tabs: bool, where: str
) -> tuple[list[str], list[tuple[list[str], int]]]:
    """Return the header and the rows of a table, each row with its line number. Blank lines are
    skipped.

    Raises:
        ValueError: as in `lines.rows_of`.
    """
    rows = rows_of(text, where=where, separator="\t" if tabs else ",", quoted=not tabs)
    return (rows[0][0], rows[1:]) if rows else ([], [])


def _rows(path: Path, within: Path | None = None) -> tuple[list[str], list[tuple[list[str], int]]]:
    return parse_table(read_text(path, within=within), tabs=path.suffix == ".tsv", where=str(path))


def _column(path: Path, header: Sequence[str], names: Sequence[str]) -> str:
    for name in names:
        if header.count(name) > 1:
            raise ValueError(f"{path} has {header.count(name)} columns {name!r}; rename one")
        if name in header:
            return name
    raise ValueError(
        f"{path} has no column {' or '.join(map(repr, names))}; its header is "
        f"{shown(', '.join(header)) or '(empty)'}"
    )
