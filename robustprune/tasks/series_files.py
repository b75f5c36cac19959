"""Series from files: a set of the UCR and UEA archives in any of its formats, or people's own CSV.

Univariate and multivariate series become (N, C, L) float32, with no bounds and no statistics: the
values are taken as their owner wants them, and eps is in their units.
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
    """The UCR archive's .tsv: label, tab, values."""
    return parse_rows(text, where=where, separator="\t", header=header)


ARCHIVE: dict[str, Callable[..., SeriesFile]] = {
    ".tsv": parse_tsv,
    ".ts": parse_ts,
    ".arff": parse_arff,
}


def parse_archive(text: str, file: Path, *, header: bool | None = None) -> SeriesFile:
    """What `text` says, in the format that the name of `file` tells.

    Raises:
        ValueError: a `header` for a format that has its own, or a malformed file.
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
    """The set in the files <Name>_TRAIN and <Name>_TEST with .tsv, .ts or .arff.

    Args:
        path: the TRAIN file, or a folder that holds one such pair; of several formats .tsv is
            taken before .ts and .arff.
        header: whether the first row of a .tsv names its columns; None as `header.is_header`.
        length, missing: what to do about unequal lengths and missing values; see `uneven.stack`.

    Raises:
        FileNotFoundError: no such file or folder, or no pair in it.
        ValueError: another format, several sets in the folder, a header for a format that has its
            own, or malformed files.
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
    """People's own univariate series: <name>_TRAIN.csv and <name>_TEST.csv, one series a row.

    Values are separated by commas. An empty field is missing.

    Args:
        path: the TRAIN file, or a folder that holds one such pair.
        label: the column of the labels, "first" or "last".
        header: whether the first row names the columns; None tells it by `header.is_header`.
        length, missing: as in `series_task`.

    Raises:
        FileNotFoundError, ValueError: as `series_task`; and another `label`.
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
    """The TRAIN and the TEST file that `path`, the TRAIN file or a folder, stands for.

    In a folder, the set that has the folder's own name comes before any other.

    Raises:
        FileNotFoundError: no such file or folder, no pair in it, or no TEST file.
        ValueError: a file that is no <Name>_TRAIN with one of the suffixes, or several sets.
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
    """Whether something has that name, a link that leads nowhere among it."""
    return os.path.lexists(path)


def task_of(
    name: str, train: SeriesFile, test: SeriesFile, *, source: str, length: Length, missing: Missing
) -> Task:
    """The task of two files that were read.

    Raises:
        ValueError: what `stack`, `encode_labels` and `Task` refuse.
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
