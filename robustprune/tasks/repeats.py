"""Test examples that are training examples, too, on which accuracy says nothing about new data."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from robustprune.tasks.task import Task


def repeats(train: Tensor, test: Tensor) -> int:
    """Return how many examples of `test` (M, ...) are in `train` (N, ...), bit for bit."""
    seen = set(_digests(train))
    return sum(digest in seen for digest in _digests(test))


def _digests(x: Tensor) -> Iterator[bytes]:
    """Yield 16 bytes for each example, whose own bytes may be too many to keep."""
    for row in x.cpu().numpy():
        yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def told_repeats(task: Task) -> Task:
    """Warn of test examples that are training examples, too; the task's source then says so.

    A task without them is returned as it is.
    """
    found = repeats(task.train.x, task.test.x)
    if not found:
        return task
    said = f"{found:,} of {len(task.test):,} test examples are training examples, too"
    warnings.warn(
        f"task '{task.name}': {said}; what is measured on them says nothing about new data, so "
        "take them out of one of the two",
        stacklevel=2,
    )
    return replace(task, source=f"{task.source}; {said}")
