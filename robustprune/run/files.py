"""Files that are what they seem: ordinary, in the folder that was named, of a size that fits.

A folder that somebody else filled may hold a named pipe, at which reading waits for ever, a device,
a link that leads out of the folder, or a few bytes that stand for more than any memory holds.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path

#: raises (or lowers) the limit below, in GiB
VARIABLE = "ROBUSTPRUNE_MAX_GB"
_GIB = 2**30
#: how much more than its file's size an array may take before it is held against the limit
_RATIO = 20
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def plain_file(path: Path, *, within: Path | None = None) -> Path:
    """`path`, if it is an ordinary file.

    Args:
        within: the folder that the user named, `path` beneath it. Below it nothing may be a
            symbolic link, neither the file nor a folder on the way; above it links are the user's.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a folder, a named pipe, a socket, a device, or a link as said.
    """
    if within is not None:
        no_links(path, within=within)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except OSError as error:  # a name too long, a link that leads to itself, no permission
        raise ValueError(f"cannot look at {path}: {error.strerror or error}") from error
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise ValueError(f"{path} is {kind}, not a file; put an ordinary file there")
    return path


def not_special(path: Path) -> Path:
    """`path`, unless reading it would never end: `plain_file`, but that nothing may be there.

    Raises:
        ValueError: a folder, a named pipe, a socket or a device.
    """
    return plain_file(path) if path.exists() else path


def no_links(path: Path, *, within: Path) -> None:
    """Refuse a symbolic link at `path` or on the way to it from the folder `within`.

    Raises:
        ValueError: there is one.
    """
    inside = path.relative_to(within) if path.is_relative_to(within) else Path(path.name)
    for part in [path, *path.parents][: len(inside.parts)]:
        if part.is_symlink():
            raise ValueError(
                f"{part} is a symbolic link, which could lead out of {within}; put the file or "
                "folder itself there, or name where it leads"
            )


def memory_limit(held: int = 0) -> int:
    """How many bytes one set of arrays or one network's weights may take: 1 GiB, or 20 times the
    `held` bytes of the file that they are read from where that is more; or, of either, as many GiB
    as the environment variable ROBUSTPRUNE_MAX_GB says.

    Raises:
        ValueError: the variable is no positive number.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return max(_GIB, _RATIO * held)
    try:
        limit = float(named)
    except ValueError:
        limit = math.nan
    if not 0 < limit < math.inf:
        raise ValueError(f"{VARIABLE}={named!r} is no positive number of GiB; give one such as 8")
    return int(limit * _GIB)


def check_memory(needed: int, what: str, *, held: int = 0) -> None:
    """Refuse to take more memory than `memory_limit` before any of it is taken.

    Args:
        needed: bytes.
        what: what needs them, as the beginning of a sentence.

    Raises:
        ValueError: they are more.
    """
    limit = memory_limit(held)
    if needed > limit:
        raise ValueError(
            f"{what} would take {_in_gib(needed)} GiB, more than the limit of {_in_gib(limit)} GiB;"
            f" if that is meant, set the environment variable {VARIABLE} to as many GiB"
        )


def _in_gib(number: int) -> str:
    if number > 2**80:
        return "more than 10^15"
    return f"{number / _GIB:.4g}"


def read_bytes(path: Path, *, within: Path | None = None, most: int | None = None) -> bytes:
    """The content of an ordinary file that is not larger than `most`, or `memory_limit`.

    Raises:
        FileNotFoundError, ValueError: as `plain_file`, or it is larger.
        OSError: it cannot be read.
    """
    size = plain_file(path, within=within).stat().st_size
    if most is None:
        check_memory(size, f"{path}: its content")
    elif size > most:
        raise ValueError(f"{path} has {size:,} bytes; at most {most:,} are taken of such a file")
    return path.read_bytes()
