"""One process at a time in a run directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

#: the file in the run directory; it stays there, and holds nobody once its process is gone
FILE = "lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other process can enter the same folder. The system lets go of the lock when the
    process ends, however it ends. Windows has no such lock: there nothing is held.

    Raises:
        ValueError: another process is inside.
    """
    if sys.platform == "win32":
        yield
        return
    # lockf, not flock: a data loader's forked workers would keep the latter after our death
    descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
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
