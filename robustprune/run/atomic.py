"""Files that are written whole or not at all; nothing here needs torch."""

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
    """Gives a temporary name beside `path` to write to; flushes it to disk and moves it into place.

    Args:
        previous: where the file that is there now is kept, instead of being replaced.

    Raises:
        OSError: it could not be written, in a line that says why. The old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed; a link would be followed
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
    """Have the names in a folder outlast a power failure, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritten(path: Path, error: Exception) -> OSError:
    """The error to raise where `path` could not be written, full disks told from other faults."""
    reason = no_room(error) or getattr(error, "strerror", None) or error
    return OSError(f"cannot write {path}: {reason}")


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write to a temporary name beside `path`, flush to disk, then move into place; returns it.
    Of several ranks, the first does so.

    Raises:
        OSError: as `replacing`.
    """
    if _is_first():
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
    return path


def _is_first() -> bool:
    """As `runtime.is_first`; a process that has not imported torch is no rank among others."""
    if "torch" not in sys.modules:
        return True
    from robustprune.run.runtime import is_first

    return is_first()
