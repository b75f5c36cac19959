"""Test examples that are training examples, too, on which accuracy says nothing about new data."""

from __future__ import annotations

import warnings
from dataclasses import replace

from torch import Tensor

from robustprune.tasks.task import Task


def repeats(train: Tensor, test: Tensor) -> int:
    """Return how many examples of `test` (M, ...) are in `train` (N, ...), bit for bit."""
    seen = {row.tobytes() for row in train.cpu().numpy()}
    return sum(row.tobytes() in seen for row in test.cpu().numpy())


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
