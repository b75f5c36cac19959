"""The k largest of many values, exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


def top_k(values: Tensor, k: int) -> Tensor:
    """Mark exactly the k largest of `values` (1-D), of equal ones the first. NaN counts as less
    than any number, so that the loop can report a training that diverges. Both methods below give
    the same mask; on an accelerator only the sort is deterministic."""
    n = values.numel()
    if k <= 0:
        return torch.zeros_like(values, dtype=torch.bool)
    if k >= n:
        return torch.ones_like(values, dtype=torch.bool)
    if values.device.type != "cpu":
        values = values.masked_fill(values.isnan(), -torch.inf)
        chosen = torch.sort(values, descending=True, stable=True).indices[:k]
        return torch.zeros_like(values, dtype=torch.bool).index_fill_(0, chosen, True)
    array = (values.float() if values.dtype == torch.bfloat16 else values).detach().numpy()
    threshold = _kth_largest(array, k)
    kept = array >= threshold
    surplus = int(np.count_nonzero(kept)) - k
    if surplus < 0:  # numpy sorts NaN last, and then compares it with nothing
        return top_k(values.masked_fill(values.isnan(), -torch.inf), k)
    if surplus:
        ties = np.flatnonzero(array == threshold)
        kept[ties[len(ties) - surplus :]] = False
    return torch.from_numpy(kept)


def _kth_largest(array: np.ndarray[Any, Any], k: int) -> Any:
    """Return the k-th largest value. In a large array, only the values between two values of a
    sorted sample are partitioned, if it is one of them."""
    if (n := array.size) >= 1 << 17:
        sample = np.sort(array[:: n >> 15 | 1])
        place, apart = len(sample) * (n - k) // n, 3 * math.isqrt(len(sample))
        low, high = sample[max(place - apart, 0)], sample[min(place + apart, len(sample) - 1)]
        between = array[(array >= low) & (array <= high)]
        left = k - int(np.count_nonzero(array > high))
        if 0 < left <= len(between):
            return np.partition(between, len(between) - left)[len(between) - left]
    return np.partition(array, n - k)[n - k]
