"""Check that files are ordinary, are in the folder that the user named, and are not too large.

A folder from somebody else may contain a named pipe, at which reading waits forever, a device, a
link that leads out of the folder, or a few bytes that describe more than any memory holds.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path

#: the environment variable that sets the limit below, in GiB
VARIABLE = "ROBUSTPRUNE_MAX_GB"
_GIB = 2**30
#: an array may always take this many times the size of its file
_RATIO = 20
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def plain_file(path: Path, *, within: Path | None = None) -> Path:
    """Return `path` if it is an ordinary file.

    Args:
        within: the folder that the user named, which contains `path`. Inside it, neither the file
            nor a folder may be a symbolic link; outside, the user's links are allowed. None allows
            all links.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is a folder, a named pipe, a socket, a device, or a forbidden link.
    """
    if within is not None:
        no_links(path, within=within)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except OSError as error:  # name too long, a circle of links, no permission
        raise ValueError(f"cannot look at {path}: {error.strerror or error}") from error
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise ValueError(f"{path} is {kind}, not a file; put an ordinary file there")
    return path


def not_special(path: Path) -> Path:
    """Return `path` unless reading it would never end. Unlike in `plain_file`, it need not exist.

    Raises:
        ValueError: it is a folder, a named pipe, a socket or a device.
    """
    return plain_file(path) if path.exists() else path


def no_links(path: Path, *, within: Path) -> None:
    """Refuse a symbolic link at `path` or between it and the folder `within`.

    Raises:
        ValueError: there is such a link.
    """
    inside = path.relative_to(within) if path.is_relative_to(within) else Path(path.name)
    for part in [path, *path.parents][: len(inside.parts)]:
        if part.is_symlink():
            raise ValueError(
                f"{part} is a symbolic link, which could lead out of {within}; put the file or "
                "folder itself there, or name where it leads"
            )


def memory_limit(held: int = 0) -> int:
    """Return how many bytes one set of arrays or one network's weights may take.

    This is 1 GiB, or 20 times the `held` bytes of their file if that is more. The environment
    variable ROBUSTPRUNE_MAX_GB replaces both, in GiB.

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
    """Raise a ValueError if more memory than `memory_limit` is needed, before it is allocated.

    Args:
        needed: the number of bytes.
        what: what needs them; it is the beginning of the error.

    Raises:
        ValueError: the limit is exceeded.
    """
    limit = memory_limit(held)
    if needed > limit:
        raise ValueError(
            f"{what} would take {_in_gib(needed)} GiB, more than the limit of {_in_gib(limit)} GiB;"
            f" to allow it, set the environment variable {VARIABLE} to a larger number of GiB"
        )


def _in_gib(number: int) -> str:
    if number > 2**80:
        return "more than 10^15"
    return f"{number / _GIB:.4g}"


def read_bytes(path: Path, *, within: Path | None = None, most: int | None = None) -> bytes:
    """Read an ordinary file that is not larger than `most` bytes, or than `memory_limit` if None.

    Raises:
        FileNotFoundError, ValueError: as in `plain_file`, or the file is larger.
        OSError: it cannot be read.
    """
    size = plain_file(path, within=within).stat().st_size
    if most is None:
        check_memory(size, f"{path}: its content")
    elif size > most:
        raise ValueError(f"{path} has {size:,} bytes; at most {most:,} are taken of such a file")
    return path.read_bytes()
