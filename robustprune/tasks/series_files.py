"""Load series from files: a set of the UCR and UEA archives in any of its formats, or own CSV
files.

Univariate and multivariate series become (N, C, L) float32, without bounds and statistics. The
values are not changed, and eps is in their units.
"""

import os
from collections.abc import Callable
from pathlib import Path

from robustprune.run.files import plain_file
from robustprune.run.naming import data_label
from robustprune.run.terminal import shown
from robustprune.tasks.layout import Layout
from robustprune.tasks.lines import read_text
from robustprune.tasks.parts import Bounds, OwnData, Part, own_task, text_labels
from robustprune.tasks.series_formats import SeriesFile, parse_arff, parse_rows, parse_ts
from robustprune.tasks.task import Task
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


def series_data(
    path: Path,
    *,
    suffixes: tuple[str, ...],
    label: str = "first",
    length: Length = "refuse",
    missing: Missing = "refuse",
    header: bool | None = None,
    layout: Layout | None = None,
    bounds: Bounds = None,
) -> OwnData:
    """Read your own series: the files <Name>_TRAIN and <Name>_TEST, or one file of any name.

    A .csv has one univariate series per row, with values separated by commas; an empty field is a
    missing value.

    Args:
        path: the TRAIN file, a folder that holds one pair, or a single file without a test split.
            In a folder, .tsv is preferred to .ts, and .ts to .arff.
        suffixes: the formats, (".csv",) or those of the archives.
        label: only for .csv: the column of the labels, "first", "last" or its name in the header.
        header: whether the first row of a .csv or .tsv names its columns; None decides as in
            `header.is_header`.
        length, missing: how unequal lengths and missing values are handled; see `uneven.stack`.
        layout: "flat" for features (N, F); None for series (N, C, L).
        bounds: the range (low, high) of valid inputs, or None.

    Raises:
        FileNotFoundError: there is no such file or folder, or no pair in it.
        ValueError: the format is another one, the folder holds several sets, `header` is given for
            a format that has its own, or a file is malformed.
    """
    if layout not in (None, "flat"):
        raise ValueError(
            f"option layout={layout!r} is not for series from text, whose values are in order of "
            "time; leave it out, or set layout to flat"
        )
    found = find_files(path, suffixes)
    files = [_parsed(file, label=label, header=header) for file in found]
    stacked = stack(*files, length=length, missing=missing)
    parts = [
        Part(x.flatten(1) if layout == "flat" else x, text_labels(file.labels), file.at)
        for x, file in zip(stacked, files, strict=True)
    ]
    return OwnData(
        name=data_label(found[0]),
        where=str(found[0]),
        train=parts[0],
        test=parts[1] if len(parts) > 1 else None,
        bounds=bounds,
        source=f"series from {found[0].name}",
        checked=True,
    )


def _parsed(file: Path, *, label: str, header: bool | None) -> SeriesFile:
    if file.suffix.lower() != ".csv":
        return parse_archive(read_text(file), file, header=header)
    return parse_rows(read_text(file), where=file.name, separator=",", label=label, header=header)


def find_files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the TRAIN and the TEST file of a set, or the single file that `path` is.

    In a folder, the set that has the folder's own name is preferred to any other.

    Raises:
        FileNotFoundError: there is no such file or folder, no pair in it, or no TEST file.
        ValueError: the file has another suffix, or the folder holds several sets.
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
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path.name} has not the suffix {listed}; rename or convert it")
    found = [path]
    if path.stem.endswith("_TRAIN"):
        test = path.with_name(f"{path.stem.removesuffix('_TRAIN')}_TEST{path.suffix}")
        if not there(test):
            raise FileNotFoundError(
                f"no file {test}; put it beside {path.name}, or give the file another name"
            )
        found.append(test)
    for file in found:
        plain_file(file, within=folder if inside else None)
    return found


def there(path: Path) -> bool:
    """Return whether something has that name, even a symbolic link whose target is missing."""
    return os.path.lexists(path)


def task_of(
    name: str, train: SeriesFile, test: SeriesFile, *, source: str, length: Length, missing: Missing
) -> Task:
    """Make the task of two files of an archive.

    Raises:
        ValueError: `stack` or `own_task` refuses the data.
    """
    stacked = stack(train, test, length=length, missing=missing)
    first, second = (
        Part(x, text_labels(file.labels), file.at)
        for x, file in zip(stacked, (train, test), strict=True)
    )
    where = f"task '{name}'"
    return own_task(OwnData(name, where, first, second, None, source, True), share=None)
