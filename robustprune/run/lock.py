"""Allow only one process at a time in a run directory."""

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

#: the file in the run directory; it stays there, but locks nothing after its process has ended
FILE = "lock"


def _opened(path: Path) -> int:
    """Open the file, and make it if there is none. Links are refused, because they could lead to
    another file, and so are named pipes."""
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
    """Inside this context, no other process can enter the same folder. The system releases the
    lock when the process ends, for whatever reason. On Windows nothing is locked.

    Raises:
        ValueError: another process is inside, or the lock file is a link or no file.
    """
    if sys.platform == "win32":
        yield
        return
    # not flock, which forked workers of a data loader would keep after this process has ended
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
