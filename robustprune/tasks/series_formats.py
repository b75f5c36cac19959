"""Parse series from the text of a file: rows of fields (.tsv, .csv), .ts of sktime and aeon, .arff.

A missing value (`?`, NaN or an empty field) becomes NaN, which `uneven` refuses or fills. Rows and
.arff files are rectangular, so missing values at the end of every channel of a series mean that it
is shorter; a .ts file writes shorter series as they are. Missing labels are refused, see
`labels.check_labels`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from robustprune.run.suggest import did_you_mean
from robustprune.run.terminal import shown
from robustprune.tasks.header import is_header
from robustprune.tasks.labels import check_labels
from robustprune.tasks.lines import lines_of, rows_of

Channel = npt.NDArray[np.float64]  # (L,), NaN where a value is missing
Example = list[Channel]  # one for each channel
_MISSING = ("?", "", "nan")


@dataclass(frozen=True)
class SeriesFile:
    """The content of a file: N labels as text and N examples of C channels each.

    Attributes:
        where: the name of the file, for messages.
        labels: the N labels as they are written.
        examples: the N examples, each a list of C channels (L,) float64.
        lines: the number of the line of each example, counted from 1.
    """

    where: str
    labels: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def at(self, index: int) -> str:
        """Return the place of an example, for messages."""
        return f"{self.where}, line {self.lines[index]}"

    def add(self, label: str, channels: Iterable[Iterable[str]], line: int) -> None:
        """Add one example from its fields as text.

        Raises:
            ValueError: there are no values, a field is no number, or the number of channels differs
                from that of the examples before.
        """
        at = f"{self.where}, line {line}"
        example = [_numbers(list(fields), at) for fields in channels]
        if not example or not all(len(channel) for channel in example):
            raise ValueError(f"{at}: no values beside the label; is the separator the right one?")
        if self.examples and len(example) != len(self.examples[0]):
            raise ValueError(
                f"{at}: {len(example)} channels, but {len(self.examples[0])} in the examples "
                "before; give every series the same channels"
            )
        self.labels.append(_unquoted(label))
        self.examples.append(example)
        self.lines.append(line)

    def checked(self, *, declared: Collection[str] = ()) -> SeriesFile:
        """Return the file itself, if it holds an example and all labels are valid.

        Raises:
            ValueError: the file is empty, or `check_labels` refuses a label.
        """
        if not self.examples:
            raise ValueError(f"{self.where}: empty; give one series per line, with its label")
        check_labels(self.labels, self.at, declared=declared)
        return self


def parse_rows(
    text: str, *, where: str, separator: str, label: str = "first", header: bool | None = None
) -> SeriesFile:
    """Parse univariate series, one per row, with the label in one of the columns.

    Args:
        label: the column of the labels: "first", "last", or its name in the header.
        header: whether the first row names the columns; None decides as in `header.is_header`, or
            by `label` if it is a name.

    Raises:
        ValueError: there are no rows, a row has no values, a value is no number, a label is
            missing, there is no such column, or it is not clear whether the first row is a header.
    """
    file = SeriesFile(where)
    rows = [
        (row, number)
        for row, number in rows_of(text, where=where, separator=separator)
        if any(entry.strip() for entry in row)
    ]
    cells = [row for row, _ in rows]
    column = {"first": 0, "last": -1}.get(label)
    named = bool(rows) and column is None
    if column is None:
        column = _column(label, cells[0] if rows else [], where, header)
    place = f"{where}, line {rows[0][1]}" if rows else where
    if named or (rows and is_header(cells, last=label == "last", where=place, said=header)):
        names, rows = cells[0], rows[1:]
    else:
        names = []
    for row, number in rows:
        if named and len(row) != len(names):
            raise ValueError(
                f"{where}, line {number}: {len(row)} fields, but {len(names)} in the header"
            )
        values = [entry for at, entry in enumerate(row) if at != column % len(row)]
        try:
            file.add(row[column], [values], number)
        except ValueError as error:
            hint = ""
            if not file.examples and header is None and not names:
                hint = " (if this row names the columns, set the option header to true)"
            raise ValueError(f"{error}{hint}") from None
    return _ended(file.checked())


def _column(label: str, header: list[str], where: str, said: bool | None) -> int:
    """Return the place of the column of that name."""
    names = [name.strip() for name in header]
    if said is False:
        raise ValueError(
            f"option label={label!r} is the name of a column, and option header=false says that "
            f"{where} has no names; set label to first or last"
        )
    if label not in names:
        raise ValueError(
            f"{where} has no column {label!r}{did_you_mean(label, [*names, 'first', 'last'])}; the "
            f"option label is first, last or the name of a column: {shown(', '.join(names), 120)}"
        )
    if names.count(label) > 1:
        raise ValueError(f"{where} has {names.count(label)} columns {label!r}; rename one")
    return names.index(label)


def parse_ts(text: str, *, where: str) -> SeriesFile:
    """Parse a .ts file: lines of `@` metadata, `@data`, and then one example per line.

    Values are separated by commas, channels by colons, and the label follows the last colon.

    Raises:
        ValueError: there are time stamps or no class labels, a label or the number of channels is
            not that of the header, or `SeriesFile` refuses an example.
    """
    file, header = SeriesFile(where), dict[str, list[str]]()
    for number, line in enumerate(lines_of(text), start=1):
        line = line.strip()
        if not line or line.startswith(("#", "%")):
            continue
        if line.startswith("@"):
            key = _keyword(line, f"{where}, line {number}")
            header[key] = line.split()[1:]
            if key == "data":
                _check_ts_header(header, where)
            continue
        if "data" not in header:
            raise ValueError(f"{where}, line {number}: a value before @data; is it a .ts file?")
        *channels, label = line.split(":")
        if label.strip() not in header["classlabel"][1:]:
            raise ValueError(
                f"{where}, line {number}: label '{shown(label.strip())}' is none of @classLabel, "
                f"{shown(' '.join(header['classlabel'][1:]))}; end each line with ':' and a label"
            )
        file.add(label, [channel.split(",") for channel in channels], number)
    declared = (header.get("dimensions") or header.get("dimension") or [""])[0]
    if file.examples and declared and declared != str(len(file.examples[0])):
        raise ValueError(
            f"{where}: @dimensions {shown(declared)}, but {len(file.examples[0])} channels a line"
        )
    return file.checked(declared=header.get("classlabel", [""])[1:])


def _keyword(line: str, at: str) -> str:
    """Return the keyword of a line of metadata, in lower case."""
    word = line.split(maxsplit=1)[0].lower().removeprefix("@")
    if not word:
        raise ValueError(f"{at}: '@' without a keyword, such as @data, right after it")
    return word


def _check_ts_header(header: dict[str, list[str]], where: str) -> None:
    if (header.get("timestamps") or ["false"])[0].lower() == "true":
        raise ValueError(f"{where}: @timeStamps true; sample the series evenly and leave them out")
    if (header.get("classlabel") or ["false"])[0].lower() != "true":
        raise ValueError(f"{where}: no '@classLabel true ...'; only classification is supported")


def parse_arff(text: str, *, where: str) -> SeriesFile:
    """Parse an .arff file whose last attribute is the class.

    It is plain (one attribute for each time step) or relational (the first field is quoted and
    holds the channels, separated by a backslash and an n).

    Raises:
        ValueError: the last attribute is not nominal or doesn't list a label, @data is missing, or
            `SeriesFile` refuses an example.
    """
    file, attribute, classes = SeriesFile(where), "", None
    for number, line in enumerate(lines_of(text), start=1):
        line, at = line.strip(), f"{where}, line {number}"
        if not line or line.startswith("%"):
            continue
        if line.startswith("@"):
            keyword = _keyword(line, at)
            attribute = line if keyword == "attribute" else attribute
            if keyword == "data" and classes is None:
                classes = _nominal(attribute, where)
            continue
        if classes is None:
            raise ValueError(f"{at}: a value before @data; is it an .arff file?")
        if line[0] in "'\"" and line.rfind(line[0] + ",") > 0:
            inside, _, label = line[1:].rpartition(line[0] + ",")
            channels = [channel.split(",") for channel in inside.split("\\n")]
        else:
            values, _, label = line.rpartition(",")
            channels = [values.split(",")] if values else []
        file.add(label, channels, number)
        if (name := file.labels[-1]) not in classes and name not in ("", "?"):
            raise ValueError(
                f"{at}: label '{shown(name)}' is none of the classes that the last attribute "
                f"lists, {shown(', '.join(classes))}; correct the label or the list"
            )
    return _ended(file.checked(declared=classes or ()))


def _nominal(attribute: str, where: str) -> list[str]:
    """Return the classes that the last attribute lists in braces."""
    if not attribute.endswith("}") or "{" not in attribute:
        raise ValueError(
            f"{where}: the last attribute is '{shown(attribute)}', not a list of classes in "
            "braces; only classification is supported, with the class last"
        )
    # the name may be quoted and hold a brace, the classes may be quoted and hold a comma
    listed = attribute[attribute.rindex("{") + 1 : -1]
    return [_unquoted(name) for name in re.findall(r"""\s*(?:'[^']*'|"[^"]*"|[^,]+)""", listed)]


def _unquoted(label: str) -> str:
    return label.strip().strip("'\"")


def _numbers(fields: list[str], at: str) -> Channel:
    """Return the values (L,) of the fields, with NaN for a missing one."""
    values = []
    for entry in fields:
        try:
            if "_" in entry or not entry.isascii():  # float() takes 1_000, and digits of any script
                raise ValueError
            values.append(
                float("nan") if entry.strip().lower() in _MISSING else float(entry),
            )
        except ValueError:
            raise ValueError(
                f"{at}: '{shown(entry)}' is no number; every value beside the label must be one, "
                "in plain digits such as -1.5 or 2e-3"
            ) from None
    return np.array(values, dtype=np.float64)


def _ended(file: SeriesFile) -> SeriesFile:
    """Cut each series after the last time step at which any channel has a value."""
    for row, example in enumerate(file.examples):
        if len({len(channel) for channel in example}) == 1:
            known = np.flatnonzero(~np.isnan(example).all(axis=0))
            # a series without any value is left for `uneven`, which names it in an error
            end = known[-1] + 1 if len(known) else len(example[0])
            file.examples[row] = [channel[:end] for channel in example]
    return file
