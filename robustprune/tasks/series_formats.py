"""Series from the text of a file: rows of fields (.tsv, .csv), .ts of sktime and aeon, .arff.

Missing values, `?`, NaN or an empty field, come back as NaN for `uneven` to refuse or to fill. In
rows and in .arff, which are rectangular, missing values at the end of every channel of a series
say that it is shorter; a .ts file writes shorter series as they are.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

Channel = npt.NDArray[np.float64]  # (L,), NaN where a value is missing
Example = list[Channel]  # one for each channel
_MISSING = ("?", "", "nan")


@dataclass(frozen=True)
class SeriesFile:
    """What a file holds: N labels as text and N examples of C channels each.

    Attributes:
        where: the file's name, for messages.
    """

    where: str
    labels: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)

    def add(self, label: str, channels: Iterable[Iterable[str]], line: int) -> None:
        """Take one example in, from its fields as text.

        Raises:
            ValueError: no values, a field that is no number, or another number of channels than
                the examples before.
        """
        at = f"{self.where}, line {line}"
        example = [_numbers(fields, at) for fields in channels]
        if not example or not all(len(channel) for channel in example):
            raise ValueError(f"{at}: no values beside the label; is the separator the right one?")
        if self.examples and len(example) != len(self.examples[0]):
            raise ValueError(
                f"{at}: {len(example)} channels, but {len(self.examples[0])} in the examples "
                "before; give every series the same channels"
            )
        self.labels.append(label.strip().strip("'\""))
        self.examples.append(example)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or else in Latin-1, as some headers of the archive are."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def parse_rows(text: str, *, where: str, separator: str, label: str = "first") -> SeriesFile:
    """Univariate series, one a row, the label in the first or last column.

    Raises:
        ValueError: no rows, a row without values, or a value that is no number.
    """
    file = SeriesFile(where)
    for number, row in enumerate(csv.reader(text.splitlines(), delimiter=separator), start=1):
        if not any(entry.strip() for entry in row):
            continue
        name, values = (row[-1], row[:-1]) if label == "last" else (row[0], row[1:])
        file.add(name, [values], number)
    return _ended(file)


def parse_ts(text: str, *, where: str) -> SeriesFile:
    """A .ts file: lines of `@` metadata, `@data`, then an example a line: the values of a channel
    separated by commas, channels by colons, and the label after the last colon.

    Raises:
        ValueError: time stamps, no class labels, a label or number of channels other than the
            header's, or what `SeriesFile.add` refuses.
    """
    file, header = SeriesFile(where), dict[str, list[str]]()
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith(("#", "%")):
            continue
        if line.startswith("@"):
            key, *words = line[1:].split()
            header[key.lower()] = words
            if key.lower() == "data":
                _check_ts_header(header, where)
            continue
        if "data" not in header:
            raise ValueError(f"{where}, line {number}: a value before @data; is it a .ts file?")
        *channels, label = line.split(":")
        if label.strip() not in header["classlabel"][1:]:
            raise ValueError(
                f"{where}, line {number}: label '{label.strip()}' is none of @classLabel, "
                f"{' '.join(header['classlabel'][1:])}; end each line with ':' and a label"
            )
        file.add(label, [channel.split(",") for channel in channels], number)
    declared = (header.get("dimensions") or header.get("dimension") or [""])[0]
    if file.examples and declared and declared != str(len(file.examples[0])):
        raise ValueError(
            f"{where}: @dimensions {declared}, but {len(file.examples[0])} channels a line"
        )
    return _not_empty(file)


def _check_ts_header(header: dict[str, list[str]], where: str) -> None:
    if (header.get("timestamps") or ["false"])[0].lower() == "true":
        raise ValueError(f"{where}: @timeStamps true; sample the series evenly and leave them out")
    if (header.get("classlabel") or ["false"])[0].lower() != "true":
        raise ValueError(f"{where}: no '@classLabel true ...'; only classification is supported")


def parse_arff(text: str, *, where: str) -> SeriesFile:
    """An .arff file with the class last: plain (one attribute a time step) or relational (a quoted
    first field that holds the channels, separated by a backslash and an n).

    Raises:
        ValueError: a last attribute that is not nominal, no @data, or what `SeriesFile.add`
            refuses.
    """
    file, attribute, data = SeriesFile(where), "", False
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("%"):
            continue
        if line.startswith("@"):
            keyword = line.split(maxsplit=1)[0].lower()
            attribute = line if keyword == "@attribute" else attribute
            data = data or keyword == "@data"
            if data and not attribute.endswith("}"):
                raise ValueError(
                    f"{where}: the last attribute is '{attribute}', not a list of classes in "
                    "braces; only classification is supported, with the class last"
                )
        elif not data:
            raise ValueError(f"{where}, line {number}: a value before @data; is it an .arff file?")
        elif line[0] in "'\"" and line.rfind(line[0] + ",") > 0:
            inside, _, label = line[1:].rpartition(line[0] + ",")
            file.add(label, [channel.split(",") for channel in inside.split("\\n")], number)
        else:
            values, _, label = line.rpartition(",")
            file.add(label, [values.split(",")] if values else [], number)
    return _ended(file)


def _numbers(fields: Iterable[str], at: str) -> Channel:
    """(L,) values; the fields of a missing one are NaN."""
    try:
        values = [
            float("nan") if entry.strip().lower() in _MISSING else float(entry) for entry in fields
        ]
    except ValueError as error:
        raise ValueError(f"{at}: {error}; every value beside the label must be a number") from None
    return np.array(values, dtype=np.float64)


def _ended(file: SeriesFile) -> SeriesFile:
    """The file with each series cut after its last value in any channel."""
    for row, example in enumerate(_not_empty(file).examples):
        if len({len(channel) for channel in example}) == 1:
            known = np.flatnonzero(~np.isnan(example).all(axis=0))
            # a series without any value stays as it is, for `uneven` to name
            end = known[-1] + 1 if len(known) else len(example[0])
            file.examples[row] = [channel[:end] for channel in example]
    return file


def _not_empty(file: SeriesFile) -> SeriesFile:
    if not file.examples:
        raise ValueError(f"{file.where}: empty; give one series per line, with its label")
    return file
