"""Read text files as lines and as rows of fields, whatever system and program wrote them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from robustprune.run.files import read_bytes


def read_text(path: Path, *, within: Path | None = None) -> str:
    """Return the text of a file, decoded as UTF-8, or else as Latin-1, as in some headers of the
    archive.

    Raises:
        FileNotFoundError, ValueError: as in `run.files.read_bytes`.
    """
    content = read_bytes(path, within=within)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def lines_of(text: str) -> list[str]:
    r"""Split a text into its lines, which end in ``\n`` or ``\r\n``, or all in ``\r`` (old Macs).

    Nothing else ends a line: `str.splitlines` also breaks at form feeds, at U+2028, and at U+0085,
    which is the ellipsis of Windows' code page read as Latin-1.
    """
    if "\n" not in text:
        return text.split("\r")
    return [line.removesuffix("\r") for line in text.split("\n")]


def rows_of(
    text: str, *, where: str, separator: str, quoted: bool = True
) -> list[tuple[list[str], int]]:
    r"""Return the rows of a table, each with the number of its first line. Empty lines are skipped.

    A quote inside quotes is written twice, ``""``; if the text doesn't fit that, ``\\"`` is tried.

    Args:
        text: the content of the file.
        where: the name of the file, for messages.
        separator: the character between two fields.
        quoted: whether fields may be enclosed in quotes.

    Raises:
        ValueError: a quote isn't closed or ends before its field does, there is a ``\\r`` inside
            a line, or a field has more than 131,072 characters.
    """
    rules = {"delimiter": separator, "strict": True}
    rules |= {} if quoted else {"quoting": csv.QUOTE_NONE}
    rows, wrong = _rows(text, rules)
    if wrong and quoted and '\\"' in text:
        other, still_wrong = _rows(text, rules | {"escapechar": "\\", "doublequote": False})
        if not still_wrong:
            return other
    if wrong:
        raise ValueError(f"{where}, {wrong}")
    return rows


def _rows(text: str, rules: dict[str, Any]) -> tuple[list[tuple[list[str], int]], str]:
    """Return the rows, and what is wrong with the first malformed row, or "" if none is."""
    ends = "\n" in text
    lines = iter([f"{line}\n" for line in (text if ends else text.replace("\r", "\n")).split("\n")])
    reader = csv.reader(lines, **rules)
    rows: list[tuple[list[str], int]] = []
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return rows, ""
        except csv.Error as error:
            return rows, f"line {line}: {_said(str(error))}"
        if row:
            rows.append((row, line))


def _said(error: str) -> str:
    """Explain an error of Python's csv reader to somebody who is no programmer."""
    for part, meaning in (
        ("field larger", f"a field of more than {csv.field_size_limit():,} characters"),
        ("new-line", "a carriage return inside the line; end lines with \\n or \\r\\n"),
        ("end of data", "a quote is opened and never closed"),
        ("expected after", "a quote ends before its field does; double quotes inside quotes"),
    ):
        if part in error:
            return meaning
    return error
