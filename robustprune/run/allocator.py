"""Memory that is freed stays with the process instead of going back to the system."""

from __future__ import annotations

import ctypes
import os

# <malloc.h> of glibc
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_TRIM, _LARGEST_MMAP = 2**31 - 1, 2**25


def keep_freed_memory() -> bool:
    """Let glibc's malloc reuse what torch frees on the CPU.

    Left alone, malloc hands the end of its heap back whenever enough of it is free, and activations
    of some megabytes are freed and asked for again in every step of an attack: the system then has
    to clear the same pages over and over. Whether it happens depends on where a block lies, so that
    of two equal trainings one may take a fifth more time. Results are the same; the process keeps
    the memory of its peak. Blocks above 32 MiB still come from the system one by one.

    It concerns the whole process, so a library call never does it: the command line does, and a
    notebook may.

    Returns:
        whether malloc took it (False where the C library is another).
    """
    if "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_TRIM_THRESHOLD, _LARGEST_TRIM) and mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP))
