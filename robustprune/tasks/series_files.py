"""Load series from files: a set of the UCR and UEA archives in any of its formats, or own CSV
files.

Univariate and multivariate series become (N, C, L) float32, without bounds and statistics. The
values are not changed, and eps is in their units.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from robustprune.run.files import plain_file
from robustprune.run.terminal import shown
from robustprune.tasks.labels import encode_labels
from robustprune.tasks.lines import read_text
from robustprune.tasks.series_formats import SeriesFile, parse_arff, parse_rows, parse_ts
from robustprune.tasks.task import Split, Task
from robustprune.tasks.uneven import Length, Missing, stack


def parse_tsv(text: str, *, where: str, header: bool | None = None) -> SeriesFile:
    """Parse the UCR archive's .tsv: each line has a label, a tab and the values."""
    return parse_rows(text, where=where, separator="\t", header=header)


ARCHIVE: dict[str, Callable[..., SeriesFile]] = {
    ".tsv": parse_tsv,
    ".ts": parse_ts,
    ".arff": parse_arff,
}


def parse_archive(text: str, file: Path, *, header: bool | None = None) -> SeriesFile:
    """Parse `text` in the format that the suffix of `file` names.

    Raises:
        ValueError: `header` is given for a format that has its own, or the file is malformed.
    """
    suffix = file.suffix.lower()
    if suffix == ".tsv":
        return parse_tsv(text, where=file.name, header=header)
    if header is not None:
        raise ValueError(
            f"option header={header} is for .csv and .tsv; leave it out for {file.name}, which "
            "describes itself"
        )
    return ARCHIVE[suffix](text, where=file.name)


def series_task(
    path: Path,
    *,
    length: Length = "refuse",
    missing: Missing = "refuse",
    header: bool | None = None,
) -> Task:
    """Load the set in the files <Name>_TRAIN and <Name>_TEST with the suffix .tsv, .ts or .arff.

    Args:
        path: the TRAIN file, or a folder that holds one such pair; .tsv is preferred to .ts, and
            .ts to .arff.
        header: whether the first row of a .tsv names its columns; None decides as in
            `header.is_header`.
        length, missing: how unequal lengths and missing values are handled; see `uneven.stack`.

    Raises:
        FileNotFoundError: there is no such file or folder, or no pair in it.
        ValueError: the format is another one, the folder holds several sets, `header` is given for
            a format that has its own, or a file is malformed.
    """
    train, test = find_pair(path, tuple(ARCHIVE))
    files = [parse_archive(read_text(file), file, header=header) for file in (train, test)]
    source = f"series from {train.name}"
    return task_of("series", *files, source=source, length=length, missing=missing)


def csv_task(
    path: Path,
    *,
    label: str = "first",
    length: Length = "refuse",
    missing: Missing = "refuse",
    header: bool | None = None,
) -> Task:
    """Load your own univariate series: <name>_TRAIN.csv and <name>_TEST.csv, one series per row.

    Values are separated by commas. An empty field is a missing value.

    Args:
        path: the TRAIN file, or a folder that holds one such pair.
        label: the column of the labels, "first" or "last".
        header: whether the first row names the columns; None decides as in `header.is_header`.
        length, missing: as in `series_task`.

    Raises:
        FileNotFoundError, ValueError: as in `series_task`, or `label` is another word.
    """
    if label not in ("first", "last"):
        raise ValueError(f"option label={label!r} is not known; choose one of first, last")
    train, test = find_pair(path, (".csv",))
    files = [
        parse_rows(read_text(file), where=file.name, separator=",", label=label, header=header)
        for file in (train, test)
    ]
    source = f"series from {train.name}"
    return task_of("csv", *files, source=source, length=length, missing=missing)


def find_pair(path: Path, suffixes: tuple[str, ...]) -> tuple[Path, Path]:
    """Find the TRAIN and the TEST file, where `path` is the TRAIN file or a folder.

    In a folder, the set that has the folder's own name is preferred to any other.

    Raises:
        FileNotFoundError: there is no such file or folder, no pair in it, or no TEST file.
        ValueError: the file is not named <Name>_TRAIN with one of the suffixes, or the folder holds
            several sets.
    """
    listed, folder = ", ".join(suffixes), path
    inside = path.is_dir()
    if inside:
        named = [path / f"{path.resolve().name}_TRAIN{s}" for s in suffixes]
        own = [f for f in named if there(f)]
        names = own[:1] or [f for s in suffixes for f in sorted(path.glob(f"*_TRAIN{s}"))]
        if not names:
            raise FileNotFoundError(
                f"no file <Name>_TRAIN with {listed} in {path}; put a pair there"
            )
        if len({file.name.removesuffix(file.suffix) for file in names}) > 1:
            raise ValueError(
                f"{path} holds several sets: {shown(', '.join(file.name for file in names))}; "
                "give the path of one TRAIN file"
            )
        path = names[0]
    if not there(path):
        raise FileNotFoundError(f"no file or folder {path}; give a TRAIN file or its folder")
    if path.suffix.lower() not in suffixes or not path.stem.endswith("_TRAIN"):
        raise ValueError(
            f"{path.name} must be named <Name>_TRAIN, with {listed}; rename or convert it"
        )
    test = path.with_name(f"{path.stem.removesuffix('_TRAIN')}_TEST{path.suffix}")
    if not there(test):
        raise FileNotFoundError(f"no file {test}; put it beside {path.name}")
    for file in (path, test):
        plain_file(file, within=folder if inside else None)
    return path, test


def there(path: Path) -> bool:
    """Return whether something has that name, even a symbolic link whose target is missing."""
    return os.path.lexists(path)


def task_of(
    name: str, train: SeriesFile, test: SeriesFile, *, source: str, length: Length, missing: Missing
) -> Task:
    """Make the task of the two files that were read.

    Raises:
        ValueError: `stack`, `encode_labels` or `Task` refuses the data.
    """
    x_train, x_test = stack(train, test, length=length, missing=missing)
    labels = (np.array(file.labels, dtype=np.str_) for file in (train, test))
    files = {"train": train, "test": test}
    y_train, y_test, names = encode_labels(
        *labels,
        where=f"task '{name}'",
        at=lambda part, index: files[part].at(index),
        checked=True,
    )
    return Task(
        name=name,
        train=Split(x_train, y_train),
        test=Split(x_test, y_test),
        num_classes=len(names),
        class_names=names,
        bounds=None,
        mean=None,
        std=None,
        augment=None,
        source=source,
    )
