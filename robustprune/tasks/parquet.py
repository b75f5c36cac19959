"""Make examples of tables, as pandas and the `datasets` library write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustprune.run.naming import data_label
from robustprune.run.suggest import did_you_mean
from robustprune.run.terminal import shown
from robustprune.tasks.labels import check_labels
from robustprune.tasks.layout import Layout
from robustprune.tasks.parts import Bounds, OwnData, Part, at_index, text_labels
from robustprune.tasks.series_formats import SeriesFile
from robustprune.tasks.tables import listed, read_parts
from robustprune.tasks.uneven import Length, Missing, stack

if TYPE_CHECKING:
    import pyarrow

#: the names of a column of labels that is found without the option `label`
_LABELS = ("label", "labels", "class", "target", "y")
#: the names of columns in which pandas keeps an index without a name
_INDEX = re.compile(r"__index_level_\d+__")


def parquet_data(
    path: Path,
    *,
    label: str = "first",
    length: Length = "refuse",
    missing: Missing = "refuse",
    layout: Layout | None = None,
    size: int | None = None,
    bounds: Bounds = None,
) -> OwnData:
    """Read one .parquet or .arrow file, or a folder of them (see `tables.read_parts`).

    Beside the label there is a column of pictures, as `datasets` stores them; a column of lists,
    which are series (C, L) or (L,); or columns of numbers, whose values in the order of the columns
    are a series or, with the layout "flat", features. Columns that pandas marks as the index of the
    rows are left out.

    Args:
        label: the name of the column of the labels. "first" means the first column that is called
            label, labels, class, target or y.
        length, missing, layout, bounds: as in `series_files.series_data`.
        size: only for pictures; as in `image_folder.folder_data`.

    Raises:
        ImportError: pyarrow is missing.
        FileNotFoundError: there is no such file.
        ValueError: a file is damaged or too large, or its columns are of other kinds.
    """
    wheres, tables = zip(*read_parts(path), strict=True)
    name = _label_column(tables[0].column_names, label, wheres[0])
    tables = tuple(_without_index(table, keep=name) for table in tables)
    if len(tables) > 1 and tables[1].column_names != tables[0].column_names:
        raise ValueError(f"{wheres[1]} has other columns than {wheres[0]}; make them the same")
    labels = [_labels(t, name, where) for t, where in zip(tables, wheres, strict=True)]
    rest = [table.drop_columns([name]) for table in tables]
    pictures = [_pictures(table) for table in rest]
    if pictures[0] is not None:
        if None in pictures:
            raise ValueError(
                f"{wheres[1]} has no pictures, but {wheres[0]} has; make them the same"
            )
        from robustprune.tasks.image_folder import Pictures

        xs, bounds = [], bounds or (0.0, 1.0)
        for cells, where in zip(pictures, wheres, strict=True):
            stacked = Pictures(where, len(cells or ()), size)
            for row, content in enumerate(cells or ()):
                stacked.add(content, f"{where}, row {row}")
            xs.append(stacked.stacked())
    else:
        if size is not None:
            raise ValueError(f"{wheres[0]} has no pictures; leave out the option size")
        series = [_series(t, where) for t, where in zip(rest, wheres, strict=True)]
        xs = stack(*series, length=length, missing=missing)
        xs = [x.flatten(1) if layout == "flat" else x for x in xs]
    if layout not in (None, "flat"):
        raise ValueError(f"option layout={layout!r} is not for parquet; leave it out, or set flat")
    parts = [Part(x, y, at_index(w)) for x, y, w in zip(xs, labels, wheres, strict=True)]
    return OwnData(
        name=data_label(path),
        where=str(path),
        train=parts[0],
        test=parts[1] if len(parts) > 1 else None,
        bounds=bounds,
        source=f"rows of {path.name}",
    )


def _label_column(names: Sequence[str], label: str, file: str) -> str:
    usual = next((name for name in _LABELS if name in names), None) if label == "first" else None
    found = usual or label  # a column may be called "first", too
    if names.count(found) > 1:
        raise ValueError(f"{file} has {names.count(found)} columns {found!r}; rename one")
    if found in names:
        return found
    raise ValueError(
        f"{file} has no column {label!r}{did_you_mean(label, names)}"
        if label != "first"
        else f"{file} has no column {', '.join(_LABELS)}; set the option label to one of its "
        f"columns: {shown(', '.join(names), 120)}"
    )


def _without_index(table: pyarrow.Table, *, keep: str) -> pyarrow.Table:
    """Leave out the columns in which pandas keeps the index of the rows, which are no values."""
    try:
        stored = (table.schema.pandas_metadata or {}).get("index_columns", [])
    except (ValueError, AttributeError):  # what a stranger wrote there is no JSON object
        stored = []
    index = [name for name in stored if isinstance(name, str)] if isinstance(stored, list) else []
    values = [
        place
        for place, name in enumerate(table.column_names)
        if name == keep or not (_INDEX.fullmatch(name) or name in index)
    ]
    return table.select(values)


def _labels(table: pyarrow.Table, name: str, where: str) -> Any:
    column = table.column(name)
    if column.null_count:
        raise ValueError(f"{where}: {column.null_count} labels in column {name!r} are missing")
    values = listed(column, f"{where}: the labels in column {name!r}")
    if not values:
        raise ValueError(f"{where}: empty; give at least one row")
    if all(isinstance(value, bool | int) for value in values):
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            raise ValueError(f"{where}: a label in column {name!r} is too large") from None
    if all(isinstance(value, str) for value in values):
        check_labels(values, at_index(where))
        return text_labels(values)
    return np.array(values) if isinstance(values[0], float) else text_labels(list(map(str, values)))


def _pictures(table: pyarrow.Table) -> list[bytes] | None:
    """Return the pictures of a table with one column of them, or None if it has none."""
    import pyarrow

    if table.num_columns != 1:
        return None
    column = table.column(0)
    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pyarrow.types.is_struct(kind) or pyarrow.types.is_binary(kind)):
        return None
    cells = listed(column, f"the pictures in column {table.column_names[0]!r}")
    found = [cell.get("bytes") if isinstance(cell, dict) else cell for cell in cells]
    contents = [content for content in found if isinstance(content, bytes)]
    if len(contents) < len(found):
        raise ValueError(
            f"column {table.column_names[0]!r} holds pictures without their bytes; save the data "
            "set with the pictures inside"
        )
    return contents


def _series(table: pyarrow.Table, where: str) -> SeriesFile:
    """Return the rows of columns of numbers, or of one column of lists, as series."""
    import pyarrow

    file = SeriesFile(where, lines=list(range(table.num_rows)))
    single = table.num_columns == 1
    if single and pyarrow.types.is_nested(table.column(0).type):
        for row, cell in enumerate(table.column(0).to_pylist()):
            example = _channels(cell, f"{where}, row {row}")
            if file.examples and len(example) != len(file.examples[0]):
                raise ValueError(
                    f"{where}, row {row}: {len(example)} channels, but {len(file.examples[0])} in "
                    "the rows before; give every series the same channels"
                )
            file.examples.append(example)
        return file
    for column, name in zip(table.columns, table.column_names, strict=True):
        kind = column.type
        if not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
            raise ValueError(
                f"{where}: column {shown(repr(name))} holds {shown(kind, 60)}; every column beside "
                "the label must hold numbers, or there must be one of lists or of pictures"
            )
    columns = [np.asarray(column.to_numpy(), dtype=np.float64) for column in table.columns]
    if not columns:
        raise ValueError(f"{where} has no column beside the label")
    file.examples.extend([row] for row in np.stack(columns, axis=1))
    return file


def _channels(cell: Any, place: str) -> list[Any]:
    """Return the channels (L,) of a list of numbers, or of a list of such lists."""
    nested = isinstance(cell, list) and len(cell) > 0 and isinstance(cell[0], list)
    try:
        channels = [np.array(part, dtype=np.float64) for part in (cell if nested else [cell])]
    except (TypeError, ValueError):
        channels = []
    if not channels or any(channel.ndim != 1 or not channel.size for channel in channels):
        raise ValueError(
            f"{place}: not a list of numbers, or a list of such lists (one a channel), with at "
            "least one number each"
        )
    return channels
