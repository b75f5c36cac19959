"""Keep freed memory in the process instead of returning it to the system."""

from __future__ import annotations

import ctypes
import os

# <malloc.h> of glibc
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_TRIM, _LARGEST_MMAP = 2**31 - 1, 2**25


def keep_freed_memory() -> bool:
    """Let glibc's malloc reuse what torch frees on the CPU.

    By default, malloc returns the end of its heap to the system whenever enough of it is free.
    Every step of an attack frees and allocates activations of some megabytes, so the system has to
    clear the same pages again and again. It depends on the position of a block whether this
    happens, so one of two equal trainings may take 20% more time. Results are the same; the process
    keeps the memory of its peak. Blocks above 32 MiB still come from the system one by one.

    It changes the whole process, so a call of the library never does it. The command line does it,
    and a notebook may.

    Returns:
        Whether malloc accepted it (False for another C library).
    """
    if "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_TRIM_THRESHOLD, _LARGEST_TRIM) and mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP))
