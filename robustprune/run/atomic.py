"""Write files whole or not at all. This module does not need torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from robustprune.run.room import no_room


@contextmanager
def replacing(path: Path, *, previous: Path | None = None) -> Iterator[Path]:
    """Yield a temporary name beside `path`; flush what was written, and rename it to `path`.

    Args:
        previous: the path under which the present file is kept; None replaces it.

    Raises:
        OSError: the file could not be written; the message says why in one line. The old file is
            unchanged.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # left by a killed process, or a link to another file
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        flush_folder(path.parent)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise unwritten(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure, if the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritten(path: Path, error: Exception) -> OSError:
    """Return the error for a `path` that could not be written; it distinguishes full disks."""
    reason = no_room(error) or getattr(error, "strerror", None) or error
    return OSError(f"cannot write {path}: {reason}")


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write to a temporary name beside `path`, flush to disk, then rename. Return the path.

    Of several ranks, only the first writes.
    """
    if _is_first():
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
    return path


def _is_first() -> bool:
    """Return `runtime.is_first`; without torch a process is not one of several ranks."""
    if "torch" not in sys.modules:
        return True
    from robustprune.run.runtime import is_first

    return is_first()
