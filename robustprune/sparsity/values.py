"""Weights with few different values: k-means on a line, and the bits that such weights need."""

from __future__ import annotations

import heapq
import math

import torch
from torch import Tensor
from torch.nn import functional as F

#: more updates than k-means on a line was ever seen to need; it ends where nothing changes
_UPDATES = 1000


def few_values(values: Tensor, number: int) -> Tensor:
    """Replace each value by one of at most `number` centres, of the same shape and dtype.

    Lloyd's algorithm: each value goes to the nearest centre, and each centre to the mean of its
    values, until nothing changes. The sum of squared distances never grows on the way, and need not
    be the least of all in the end. The start is fixed, see `split`.

    Args:
        number: at least 1. If there are no more different values, they stay as they are.
    """
    line, order = values.detach().flatten().double().sort()
    if len(torch.unique_consecutive(line)) <= number:
        return values.detach().clone()
    result = torch.empty_like(line)
    result[order] = lloyd(line, split(line, number))
    return result.to(values.dtype).view(values.shape)


def split(line: Tensor, number: int) -> Tensor:
    """Return where the clusters of sorted values begin, (number + 1,), n at the end. The one with
    the largest sum of squared distances is split at its mean, until there are enough (Su & Dy 2007,
    Intelligent Data Analysis 11(4), Var-Part).

    Args:
        line: (n,), ascending, with more than `number` different values.
    """
    place = line.mean()  # sums of squares lose fewer digits there
    moments = torch.stack([line - place, (line - place).square()])
    sums = F.pad(moments.cumsum(1), (1, 0)).tolist()

    def part(begin: int, end: int) -> tuple[float, int, int]:
        first, second = (total[end] - total[begin] for total in sums)
        spread = second - first**2 / (end - begin)
        return (1.0 if end - begin == 1 else -max(spread, 0.0), begin, end)  # one value stays

    parts = [part(0, len(line))]
    while len(parts) < number:
        _, begin, end = heapq.heappop(parts)
        mean = line[begin:end].mean()
        middle = begin + int(torch.searchsorted(line[begin:end], mean))
        middle = min(max(middle, begin + 1), end - 1)  # rounding may put the mean at the edge
        heapq.heappush(parts, part(begin, middle))
        heapq.heappush(parts, part(middle, end))
    return torch.tensor([0, *sorted(end for _, _, end in parts)], device=line.device)


def lloyd(line: Tensor, bounds: Tensor, *, updates: int = _UPDATES) -> Tensor:
    """Return the centre of each value, (n,), by Lloyd's algorithm on sorted values.

    Args:
        line: (n,), ascending.
        bounds: (centres + 1,), where each cluster begins; the first is 0, the last n.
        updates: the largest number of updates.
    """
    sums = F.pad(line.cumsum(0), (1, 0))
    for _ in range(updates):
        centres = sums[bounds].diff() / bounds.diff()
        moved = torch.searchsorted(line, (centres[1:] + centres[:-1]) / 2)
        after = torch.unique(torch.cat([bounds[:1], moved, bounds[-1:]]))  # none without values
        if torch.equal(after, bounds):
            break
        bounds = after
    centres = sums[bounds].diff() / bounds.diff()
    return centres.repeat_interleave(bounds.diff())


def distance(values: Tensor, centres: Tensor) -> float:
    """Return the sum of squared distances."""
    return float((values - centres).square().sum())


def bits_of(weight: Tensor, mask: Tensor) -> int:
    """Return how many bits the kept weights of a layer need, with their positions.

    k of n weights are kept, with v different values of w bits each (32 for float32). They need
    min(k w, v w + k ⌈log₂ v⌉) bits: as they are, or as a table of values and a code for each. Their
    positions need min(n, k ⌈log₂ n⌉): one bit for each weight, or an index for each that is kept.
    """
    kept = weight.detach()[mask.to(weight.device)]
    width = torch.finfo(weight.dtype).bits
    values, total, n = len(torch.unique(kept)), len(kept), weight.numel()
    coded = values * width + total * math.ceil(math.log2(max(values, 1)))
    return min(total * width, coded) + min(n, total * math.ceil(math.log2(n)))
