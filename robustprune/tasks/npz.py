"""Read plain arrays from .npz archives, whose sizes are checked before memory is allocated."""

from __future__ import annotations

import math
import struct
import sys
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from robustprune.run.files import check_memory, plain_file
from robustprune.run.suggest import did_you_mean
from robustprune.run.terminal import shown

Array = npt.NDArray[Any]
_PREFIX = b"\x93NUMPY"
#: the compression methods of numpy; others could unpack to more than is checked here
_PACKED = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
#: the errors of numpy and zipfile for an archive that is damaged or far too large
_DAMAGE = (
    *(ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, struct.error),
    *(ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError),
    *(NotImplementedError, SyntaxError, tokenize.TokenError),
)


def read_npz(path: Path, *, keys: Sequence[str], within: Path | None = None) -> dict[str, Array]:
    """Return the arrays `keys` of the file `path`, with one label for each example.

    Args:
        keys: the names of the arrays, in turn one of inputs and one of their labels.
        within: as in `run.files.plain_file`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no .npz file, a key is missing (the message names the nearest one),
            a member is no plain array or larger than `run.files.memory_limit` (inputs as float32),
            or the numbers of labels and examples differ.
    """
    plain_file(path, within=within)
    try:
        with open(path, "rb") as file, _archive(file) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            missing = [key for key in keys if key not in names]
            arrays = {} if missing else _arrays(archive, keys, path.stat().st_size)
    except _DAMAGE as error:
        reason = shown(" ".join(str(error).split()), 300) or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as .npz: {reason}; save plain arrays with "
            f"np.savez(path, {', '.join(f'{key}=...' for key in keys)})"
        ) from error
    if missing:
        raise ValueError(
            f"{path} has no key '{missing[0]}'{did_you_mean(missing[0], names)}; it has "
            f"{shown(', '.join(names)) or 'none'}, and needs {', '.join(keys)}"
        )
    for x, y in zip(keys[::2], keys[1::2], strict=True):
        if arrays[x].ndim == 0 or arrays[y].ndim == 0 or len(arrays[x]) != len(arrays[y]):
            raise ValueError(
                f"{path}: {x} has shape {arrays[x].shape} and {y} {arrays[y].shape}; "
                "give one label per example"
            )
    return arrays


def keys_of(path: Path) -> set[str]:
    """Return the names of the arrays of an archive; none where the file is no archive."""
    try:
        with open(plain_file(path), "rb") as file, _archive(file) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (*_DAMAGE, FileNotFoundError):
        return set()  # `read_npz` says what is wrong


def _archive(file: IO[bytes]) -> zipfile.ZipFile:
    start = file.read(len(_PREFIX))
    if start == _PREFIX:
        raise ValueError("it holds a single array")
    if not start.startswith(b"PK"):  # numpy would take it for a pickle, and say so
        raise ValueError("it is no archive of arrays")
    file.seek(0)
    return zipfile.ZipFile(file)


def _arrays(archive: zipfile.ZipFile, keys: Sequence[str], held: int) -> dict[str, Array]:
    """Read the members `keys`, after their headers have shown that all of them fit into memory."""
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    needed = sum(_needed(archive, members[key], key) for key in keys)
    check_memory(needed, f"the arrays {', '.join(keys)}", held=held)
    arrays = {}
    for key in keys:
        with archive.open(members[key]) as member, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arrays[key] = np.lib.format.read_array(member, allow_pickle=False)
        if arrays[key].dtype.kind == "U":
            _check_characters(arrays[key], key)
    return arrays


def _check_characters(texts: Array, key: str) -> None:
    """Refuse codes that are no Unicode characters, because Python fails on them at every use."""
    kind = np.dtype(np.uint32).newbyteorder(texts.dtype.byteorder)
    codes = np.frombuffer(texts.tobytes(), dtype=kind)
    if ((codes > sys.maxunicode) | ((codes >= 0xD800) & (codes < 0xE000))).any():
        raise ValueError(f"{key} holds texts with numbers that are no characters of Unicode")


def _needed(archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str) -> int:
    """Return from its header alone how many bytes a member takes, with 4 bytes or more per
    number."""
    if info.compress_type not in _PACKED:
        raise ValueError(f"{key} is compressed in another way than numpy does (deflated or stored)")
    with archive.open(info) as member:
        if member.read(len(_PREFIX)) != _PREFIX:
            raise ValueError(f"{key} is no array but some other file")
        version = tuple(member.read(2))
        if version not in _HEADERS:
            raise ValueError(f"{key} is of version {version} of numpy's format, not 1.0 or 2.0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers as Python 2 wrote them
            shape, _, dtype = _HEADERS[version](member)
        begins = member.tell()
    if dtype.hasobject:
        raise ValueError(
            f"{key} is an array of Python objects, such as None or texts of any length, which are "
            "pickled; use numbers, or texts of a numpy type such as '<U8'"
        )
    if any(size < 0 for size in shape):
        raise ValueError(f"{key} has the shape {shown(shape, 80)}, with a size below zero")
    count, has = math.prod(shape), info.file_size - begins
    if has != count * dtype.itemsize:
        raise ValueError(
            f"{key} of shape {shown(shape, 80)} and type {shown(dtype, 80)} has {has} bytes of "
            "values, which does not fit its shape and type"
        )
    return count * max(dtype.itemsize, 4)
