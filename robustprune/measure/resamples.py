"""Resamples of paired examples: drawn with replacement, and with the two networks swapped."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

#: the number of resamples
RESAMPLES = 5000
#: the largest number of values of a matrix of resamples at a time
_AT_A_TIME = 4_000_000


def bootstrap(first: Tensor, second: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the means of both over examples that are drawn with replacement."""
    n, generator = len(first), torch.Generator().manual_seed(seed)
    for rows in _chunks(max(n, first.shape[1])):
        drawn = torch.randint(n, (rows, n), generator=generator)
        counts = torch.zeros(rows, n, dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.ones(rows, n, dtype=torch.float64))
        yield counts @ first / n, counts @ second / n


def swaps(first: Tensor, second: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the means of both with the two outputs swapped on half of the examples."""
    n, generator = len(first), torch.Generator().manual_seed(seed + 1)
    whole, apart = (first + second).mean(0), second - first
    for rows in _chunks(max(n, first.shape[1])):
        swap = torch.randint(2, (rows, n), generator=generator).double()
        one = first.mean(0) + swap @ apart / n
        yield one, whole - one


def _chunks(wide: int) -> Iterator[int]:
    left, most = RESAMPLES, max(1, _AT_A_TIME // wide)
    while left > 0:
        yield min(left, most)
        left -= most
