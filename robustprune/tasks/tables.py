"""Read tables by pyarrow: parquet files, and Arrow streams as the library `datasets` saves them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune.run.files import check_memory, plain_file
from robustprune.run.terminal import shown

if TYPE_CHECKING:
    import pyarrow

#: suffixes of files that `read_table` reads
TABLES = (".parquet", ".arrow")
#: parts of the names of the files of a test split
_TESTS = ("test", "val")
#: the number of a shard at the end of a name: -00000-of-00003
_SHARD = re.compile(r"-\d+-of-\d+$")


def read_parts(path: Path) -> list[tuple[str, pyarrow.Table]]:
    """Return the training table and, where there is one, the test table, each with its place.

    Args:
        path: a file; a folder with train* and test* (or val*) files, one or several shards of each;
            or what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote. Files and folders of
            other names are left alone.

    Raises:
        ImportError: pyarrow is missing.
        FileNotFoundError, ValueError: as in `read_table`, there is no training part, there are
            several test parts, or shards have different columns or types.
    """
    if not path.is_dir():
        return [(str(path), read_table(path, within=None))]
    shards = _shards(path)
    if shards:  # a single saved data set
        return [(str(path), _joined(shards, path))]
    parts = [
        (name, files)
        for name in sorted(_names(path))
        if (files := _shards(path / name) or _named(path, name))
    ]
    train = [part for part in parts if "train" in part[0].lower()]
    test = [p for p in parts if p not in train and any(t in p[0].lower() for t in _TESTS)]
    if len(train) != 1 or len(test) > 1:
        raise ValueError(
            f"{path} has {_count(train)} to train on and {_count(test)} to test on; put tables "
            f"train* and test* there ({', '.join(TABLES)}), or give the path of one file"
        )
    return [(str(path / name), _joined(files, path)) for name, files in train + test]


def _names(folder: Path) -> set[str]:
    """The names of parts: of folders, and of files without the number of their shard."""
    found = set()
    for entry in folder.iterdir():
        if entry.is_dir():
            found.add(entry.name)
        elif entry.suffix.lower() in TABLES:
            found.add(_SHARD.sub("", entry.stem))
    return found


def _named(folder: Path, name: str) -> list[Path]:
    """The shards of one part in a folder of several."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in TABLES and _SHARD.sub("", file.stem) == name
    )


def _shards(folder: Path) -> list[Path]:
    """The files of a saved data set, data-00000-of-00002.arrow and so on."""
    return sorted(folder.glob("data-*.arrow")) if folder.is_dir() else []


def _count(parts: list[tuple[str, list[Path]]]) -> str:
    return ", ".join(repr(name) for name, _ in parts) or "nothing"


def _joined(files: list[Path], within: Path) -> pyarrow.Table:
    import pyarrow

    size = sum(plain_file(file, within=within).stat().st_size for file in files)
    check_memory(size, f"{within}: the content of its files")
    tables: list[pyarrow.Table] = []
    for file in files:
        tables.append(read_table(file, within=within))
        if tables[-1].schema.names != tables[0].schema.names:
            raise ValueError(f"{file} has other columns than {files[0].name}; make them the same")
        check_memory(sum(table.nbytes for table in tables), f"{within}: its values")
    try:
        return pyarrow.concat_tables(tables, promote_options="permissive")
    except pyarrow.ArrowException as error:
        said = shown(" ".join(str(error).split()))
        raise ValueError(
            f"{within}: a column has different types in {files[0].name} and the files after it "
            f"({said}); make them the same"
        ) from error


def read_table(file: Path, *, within: Path | None) -> pyarrow.Table:
    """Read a .parquet file, or an .arrow stream.

    Args:
        within: the folder that the user named, inside which no link is followed.

    Raises:
        ImportError: pyarrow is missing.
        FileNotFoundError, ValueError: there is no such file, or it is damaged or too large.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ImportError(
            f"{file.suffix[1:]} files need pyarrow; install it with pip install "
            '"robustprune[tables]"'
        )
    size = plain_file(file, within=within).stat().st_size
    check_memory(size, f"{file}: its content")
    return _arrow(file) if file.suffix.lower() == ".arrow" else _parquet(file)


def listed(column: pyarrow.ChunkedArray, what: str) -> list[Any]:
    """Return a column as a list. A text that is repeated is stored once in the column, but takes
    its memory again in each place of the list.

    Args:
        what: the place of the column, which begins the error.

    Raises:
        ValueError: the list would take more than `run.files.memory_limit`, and than the column.
    """
    import pyarrow
    from pyarrow import compute

    kinds = pyarrow.types
    texts = (kinds.is_string, kinds.is_binary, kinds.is_large_string, kinds.is_large_binary)
    packed = kinds.is_dictionary(column.type)
    if packed and any(is_one(column.type.value_type) for is_one in texts):
        sizes = [compute.binary_length(chunk.dictionary) for chunk in column.chunks]
        sums = [
            compute.sum(one.cast("int64").take(chunk.indices)).as_py() or 0
            for one, chunk in zip(sizes, column.chunks, strict=True)
        ]
        if sum(sums) > column.nbytes:
            check_memory(sum(sums), what)
    values: list[Any] = column.to_pylist()
    return values


def _parquet(file: Path) -> pyarrow.Table:
    """Read a file, after its footer has said how many values it has."""
    import pyarrow
    from pyarrow import parquet

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


def _arrow(file: Path) -> pyarrow.Table:
    """Read a stream of record batches, which is the format of `datasets`."""
    import pyarrow
    from pyarrow import ipc

    size = file.stat().st_size
    try:
        with pyarrow.OSFile(str(file)) as opened, ipc.open_stream(opened) as stream:
            tables, held = [], 0
            for batch in stream:  # a batch may be packed, so that its size is known only here
                held += batch.nbytes
                check_memory(held, f"{file}: its values", held=size)
                tables.append(batch)
            return pyarrow.Table.from_batches(tables, schema=stream.schema)
    except (pyarrow.ArrowException, OSError) as error:
        said = shown(" ".join(str(error).split()))
        raise ValueError(f"{file} cannot be read as an arrow stream ({said})") from error
