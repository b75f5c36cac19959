"""Whether malloc keeps what is freed, seen by the pages that the system has to hand out."""

import os
import subprocess
import sys

import pytest

from robustprune.run.allocator import keep_freed_memory

PAGES = 4096  # of a block of 16 MiB, with pages of 4 KiB
PROGRAM = """
import resource, sys
from robustprune.run.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    block = bytearray(2**24)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of 50 times the same block, where malloc would give each back at once."""
    eager = {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PROGRAM, how]
    done = subprocess.run(command, env=os.environ | eager, capture_output=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}), reason="glibc's malloc alone"
)
def test_freed_blocks_are_used_again():
    assert faults("leave") > 40 * PAGES
    assert faults("keep") < 2 * PAGES


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(os, "confstr_names", {})
    assert not keep_freed_memory()
