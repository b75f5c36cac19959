"""One process at a time in a run directory."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

#: the file in the run directory; it stays there, and holds nobody once its process is gone
FILE = "lock"


def _opened(path: Path) -> int:
    """A descriptor of the file, made where there is none; a link would lead to another's file, and
    a named pipe is none."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(f"{path} is a symbolic link, not a file; remove it") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is no ordinary file; remove it")
    return descriptor


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other process can enter the same folder. The system lets go of the lock when the
    process ends, however it ends. Windows has no such lock: there nothing is held.

    Raises:
        ValueError: another process is inside, or the file of the lock is a link or no file.
    """
    if sys.platform == "win32":
        yield
        return
    # lockf, not flock: a data loader's forked workers would keep the latter after our death
    descriptor = _opened(folder / FILE)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            other = os.read(descriptor, 200).decode(errors="replace").strip()
            raise ValueError(
                f"another process ({other or 'just started'}) is at work in {folder}; wait for it "
                "to end, or stop it"
            ) from error
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} on {os.uname().nodename}\n".encode())
        yield
    finally:
        os.close(descriptor)
