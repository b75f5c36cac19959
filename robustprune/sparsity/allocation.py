"""Allocation: how many groups each layer keeps, given the density of the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from robustprune.sparsity.patterns import count_kept, top_k

AllocationName = Literal["layer", "global"]
ALLOCATIONS: tuple[AllocationName, ...] = get_args(AllocationName)

#: parameter name -> one value per group, density -> parameter name -> groups kept
Allocation = Callable[[Mapping[str, Tensor], float], dict[str, int]]


def uniform(values: Mapping[str, Tensor], density: float) -> dict[str, int]:
    """Every layer keeps ⌈density · groups⌉ of its own groups (arXiv 2110.14068, Sec. 3.2)."""
    return {name: count_kept(density, value.numel()) for name, value in values.items()}


def pooled(values: Mapping[str, Tensor], density: float) -> dict[str, int]:
    """The ⌈density · groups⌉ best groups of all layers together, at least one in each layer.

    A layer without a single group left would cut the network in two, so the best group of each
    layer is always among the kept ones; the rest is filled by rank over all layers.
    """
    total = count_kept(density, sum(value.numel() for value in values.values()))
    best = [torch.zeros_like(value, dtype=torch.bool) for value in values.values()]
    for mark, value in zip(best, values.values(), strict=True):
        mark[value.argmax()] = True
    everything = torch.cat(list(values.values()))
    ranked = everything.masked_fill(torch.cat(best), torch.inf)
    kept = top_k(ranked, max(total, len(values)))
    counts = [int(part.sum()) for part in torch.split(kept, [v.numel() for v in values.values()])]
    return dict(zip(values, counts, strict=True))


def allocation(name: AllocationName) -> Allocation:
    """The allocation of that name.

    Raises:
        ValueError: unknown name.
    """
    if name not in ALLOCATIONS:
        raise ValueError(f"unknown allocation {name!r}; choose one of {', '.join(ALLOCATIONS)}")
    return uniform if name == "layer" else pooled
