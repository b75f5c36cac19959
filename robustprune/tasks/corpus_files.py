"""Read running text for language models: text files, JSON lines, parquet and Arrow files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from robustprune.run.files import read_bytes
from robustprune.run.suggest import did_you_mean
from robustprune.run.terminal import shown
from robustprune.tasks.tables import TABLES, listed, read_table

if TYPE_CHECKING:
    import pyarrow

#: what stands between two documents
BETWEEN = "\n\n"
SUFFIXES = (".txt", ".jsonl", *TABLES)
#: names of the parts of a folder: to calibrate and train on, and to be measured on
_TRAIN, _TEST = ("train",), ("test", "valid")


def read_document(path: Path, *, field: str = "text", within: Path | None = None) -> str:
    r"""Return the text of a file, exactly as it is written: no line end is changed.

    Documents of a .jsonl, .parquet or .arrow file are joined by "\n\n".

    Args:
        path: a .txt file in UTF-8; a .jsonl file with one JSON object a line; a .parquet file; or
            an .arrow file, as `datasets` stores them.
        field: the name of the field, or column, with the text; not for .txt.
        within: the folder that the user named, inside which no link is followed.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: pyarrow is missing.
        ValueError: the file is too large, damaged, empty, of another kind, or has no such field.
    """
    kind = path.suffix.lower()
    if kind == ".txt":
        text = _decoded(path, within)
    elif kind == ".jsonl":
        text = BETWEEN.join(_json_lines(path, field, within))
    elif kind in TABLES:
        text = BETWEEN.join(_column(read_table(path, within=within), field, path))
    else:
        raise ValueError(
            f"{path} has the suffix {path.suffix or '(none)'}; give a text as "
            f"{', '.join(SUFFIXES)}, or a folder with train and test files of these kinds"
        )
    if not text.strip():
        raise ValueError(f"{path} has no text; give a file with some")
    return text


def read_folder(folder: Path, *, field: str = "text") -> tuple[str, str]:
    """Return the texts of train* and test* (or else valid*) in a folder, in the order of names.

    They are files of the kinds of `read_document`, or folders of such files, as a saved
    `datasets.DatasetDict` has them.

    Raises:
        FileNotFoundError: one of the two parts is missing.
        ValueError, ImportError: as in `read_document`, or a file or folder is a symbolic link.
    """
    found = []
    for names in (_TRAIN, _TEST):
        files = next((f for name in names if (f := _files(folder, name))), None)
        if files is None:
            raise FileNotFoundError(
                f"{folder} has no {' or '.join(f'{name}*' for name in names)} with text "
                f"({', '.join(SUFFIXES)}); add it, or give one file, which is divided"
            )
        found.append(BETWEEN.join(read_document(f, field=field, within=folder) for f in files))
    return found[0], found[1]


def _files(folder: Path, name: str) -> list[Path]:
    there = sorted(path for path in folder.iterdir() if path.name.lower().startswith(name))
    inside = [
        file
        for path in there
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        if file.suffix.lower() in SUFFIXES
    ]
    return inside


def _decoded(path: Path, within: Path | None) -> str:
    content = read_bytes(path, within=within)
    try:
        return content.decode("utf-8").removeprefix("\ufeff")  # the mark of some Windows programs
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 at byte {error.start:,}; convert it (iconv -t utf-8)"
        ) from None


def _json_lines(path: Path, field: str, within: Path | None) -> list[str]:
    found = []
    for number, line in enumerate(_decoded(path, within).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is no JSON ({shown(error)}); correct it") from error
        if not isinstance(record, dict):
            raise ValueError(f"{where} is no JSON object; write one such as {{{field!r}: ...}}")
        if field not in record:
            raise ValueError(
                f"{where} has no text in {shown(repr(field))}{did_you_mean(field, list(record))}; "
                f"its fields are {shown(', '.join(map(str, record)))}; name one (--label)"
            )
        if not isinstance(record[field], str):
            raise ValueError(
                f"{where} has {type(record[field]).__name__}, not text, in {shown(repr(field))}; "
                "correct it, or name another field"
            )
        found.append(record[field])
    return found


def _column(table: pyarrow.Table, field: str, path: Path) -> list[str]:
    names = table.column_names
    if field not in names:
        raise ValueError(
            f"{path} has no column {shown(repr(field))}{did_you_mean(field, names)}; its columns "
            f"are {shown(', '.join(names))}; name one (--label)"
        )
    if names.count(field) > 1:
        raise ValueError(f"{path} has {names.count(field)} columns {field!r}; rename one")
    values: list[str] = listed(table.column(field), f"{path}: the texts in column {field!r}")
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{path}: column {shown(repr(field))} has values that are no text")
    return values
