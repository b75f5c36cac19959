"""Read parquet files, as pandas and the `datasets` library write them, by pyarrow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustprune.run.files import check_memory, plain_file
from robustprune.run.naming import data_label
from robustprune.run.suggest import did_you_mean
from robustprune.run.terminal import shown
from robustprune.tasks.labels import check_labels
from robustprune.tasks.layout import Layout
from robustprune.tasks.parts import Bounds, OwnData, Part, at_index, text_labels
from robustprune.tasks.series_formats import SeriesFile
from robustprune.tasks.uneven import Length, Missing, stack

if TYPE_CHECKING:
    import pyarrow

#: the names of a column of labels that is found without the option `label`
_LABELS = ("label", "labels", "class", "target", "y")
#: parts of the names of the files of a test split
_TESTS = ("test", "val")


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
    """Read one .parquet file, or a folder with train*.parquet and test*.parquet.

    Beside the label there is a column of pictures, as `datasets` stores them; a column of lists,
    which are series (C, L) or (L,); or columns of numbers, whose values in the order of the columns
    are a series or, with the layout "flat", features.

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
    files = _files(path)
    tables = [read_table(file, within=path if path.is_dir() else None) for file in files]
    name = _label_column(tables[0].column_names, label, files[0])
    for file, table in zip(files, tables, strict=True):
        if table.column_names != tables[0].column_names:
            raise ValueError(f"{file} has other columns than {files[0].name}; make them the same")
    wheres = [str(file) for file in files]
    labels = [_labels(t, name, where) for t, where in zip(tables, wheres, strict=True)]
    rest = [table.drop_columns([name]) for table in tables]
    pictures = [_pictures(table) for table in rest]
    if pictures[0] is not None:
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


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.parquet"))
    train = [file for file in found if "train" in file.name.lower()]
    test = [f for f in found if f not in train and any(t in f.name.lower() for t in _TESTS)]
    if len(train) != 1 or len(test) > 1:
        raise ValueError(
            f"{path} has {len(train)} files train*.parquet and {len(test)} files test*.parquet; "
            "put one of each there, or give the path of one file"
        )
    return train + test


def read_table(file: Path, *, within: Path | None) -> pyarrow.Table:
    """Read a file, after its footer has said how many values it has.

    Args:
        within: the folder that the user named, inside which no link is followed.

    Raises:
        ImportError: pyarrow is missing.
        FileNotFoundError, ValueError: there is no such file, or it is damaged or too large.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            'parquet files need pyarrow; install it with pip install "robustprune[tables]"'
        ) from error
    plain_file(file, within=within)
    try:
        with parquet.ParquetFile(file, pre_buffer=False) as opened:
            meta = opened.metadata
            chunks = [
                meta.row_group(group).column(column)
                for group in range(meta.num_row_groups)
                for column in range(meta.num_columns)
            ]
            # a value of any kind takes 8 bytes or more, and what is packed at least its own size
            values = sum(8 * max(chunk.num_values, 0) for chunk in chunks)
            packed = sum(max(chunk.total_uncompressed_size, 0) for chunk in chunks)
            check_memory(values + packed, f"{file}: its values", held=file.stat().st_size)
            texts = [
                chunk.path_in_schema
                for chunk in chunks
                if chunk.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
            ]
        # texts stay in their dictionaries: a long one that is repeated takes no more memory
        with parquet.ParquetFile(
            file, pre_buffer=False, read_dictionary=list(dict.fromkeys(texts))
        ) as opened:
            return opened.read(use_threads=False)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if "ROBUSTPRUNE_MAX_GB" in str(error):
            raise
        said = shown(" ".join(str(error).split()))
        raise ValueError(f"{file} cannot be read as parquet ({said})") from error


def _label_column(names: Sequence[str], label: str, file: Path) -> str:
    if label in names:
        return label
    found = next((name for name in _LABELS if name in names), None)
    if label == "first" and found is not None:
        return found
    raise ValueError(
        f"{file} has no column {label!r}{did_you_mean(label, names)}"
        if label != "first"
        else f"{file} has no column {', '.join(_LABELS)}; set the option label to one of its "
        f"columns: {shown(', '.join(names), 120)}"
    )


def _labels(table: pyarrow.Table, name: str, where: str) -> Any:
    column = table.column(name)
    if column.null_count:
        raise ValueError(f"{where}: {column.null_count} labels in column {name!r} are missing")
    values = column.to_pylist()
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
    cells = column.to_pylist()
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
        file.examples.extend(
            _channels(cell, f"{where}, row {row}")
            for row, cell in enumerate(table.column(0).to_pylist())
        )
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
        return [np.array(part, dtype=np.float64) for part in (cell if nested else [cell])]
    except (TypeError, ValueError):
        raise ValueError(
            f"{place}: not a list of numbers, or a list of such lists (one a channel)"
        ) from None
