"""Allocation: how many groups each layer keeps, given the density of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from robustprune.sparsity.mask import MaskSet
from robustprune.sparsity.patterns import (
    Groups,
    check_density,
    check_pattern,
    count_kept,
    group_weight,
    top_k,
)

AllocationName = Literal["layer", "global", "erk"]
ALLOCATIONS: tuple[AllocationName, ...] = get_args(AllocationName)

#: by name, or the density of each layer by its parameter name
Allocation = AllocationName | Mapping[str, float]


def keep_best(
    scores: Mapping[str, Tensor],
    layers: Mapping[str, nn.Module],
    *,
    density: float,
    pattern: str = "element",
    allocate: Allocation = "layer",
) -> MaskSet:
    """The masks that keep the groups with the largest Σ score: allocation, then top-k.

    Args:
        scores: parameter name -> one score a weight, of its shape; the larger the better.
        layers: the layers that own those parameters, as `maskable_layers` gives them.

    Raises:
        ValueError: density outside (0, 1], an unknown pattern or allocation.
    """
    check_pattern(pattern, check_density(density))
    groups = {name: group_weight(layers[name], pattern) for name in scores}
    values = {name: groups[name].reduce(score.detach()) for name, score in scores.items()}
    counts = allot(values, groups, density, allocate)
    return MaskSet(
        {name: g.expand(g.choose(values[name], counts[name])) for name, g in groups.items()}
    )


def allot(
    values: Mapping[str, Tensor],
    groups: Mapping[str, Groups],
    density: float,
    allocate: Allocation,
) -> dict[str, int]:
    """Groups that each layer keeps.

    - "layer": ⌈density · groups⌉ of each (arXiv 2110.14068, Sec. 3.2);
    - "global": the best of all layers together, at least one in each, since a layer without a
      single group left would cut the network in two;
    - "erk": ∝ (Σ of the weight's dimensions) / (their product), so that small layers stay denser
      (Evci et al. 2020, arXiv 1911.11134, Sec. 3);
    - a mapping: ⌈its density · groups⌉ of each layer.

    "global" and "erk" keep ⌈density · groups⌉ in all (more only where one a layer needs it).

    Args:
        values: parameter name -> one value per group.

    Raises:
        ValueError: an unknown allocation, or a mapping that misses a layer or names another.
    """
    if isinstance(allocate, Mapping):
        counts = _given(values, allocate)
    elif allocate == "layer":
        counts = {name: count_kept(density, value.numel()) for name, value in values.items()}
    elif allocate == "global":
        counts = _pooled(values, density)
    elif allocate == "erk":
        shares = {name: sum(g.out_first) / _size(g) * g.number for name, g in groups.items()}
        limits = {name: value.numel() for name, value in values.items()}
        counts = apportion(shares, limits, count_kept(density, sum(limits.values())))
    else:
        raise ValueError(
            f"unknown allocation {allocate!r}; choose one of {', '.join(ALLOCATIONS)}, or give "
            "a density for each layer"
        )
    return {name: groups[name].fixed or kept for name, kept in counts.items()}


def apportion(shares: Mapping[str, float], limits: Mapping[str, int], total: int) -> dict[str, int]:
    """Whole numbers in proportion to `shares` that add up to `total`, from 1 to each limit.

    What a full layer cannot take goes to the others in the same proportion; fractions are settled
    by the largest remainder, of equal ones the first. `total` is brought into the feasible range.
    """
    total = min(max(total, len(limits)), sum(limits.values()))
    exact: dict[str, float] = {}
    open_ones, left = list(shares), float(total)
    while open_ones:
        weight = sum(shares[name] for name in open_ones)
        part = {
            name: left * (shares[name] / weight if weight > 0 else 1 / len(open_ones))
            for name in open_ones
        }
        over = [name for name in open_ones if part[name] >= limits[name]]
        under = [name for name in open_ones if part[name] <= 1] if not over else []
        for name in over or under:
            exact[name] = float(limits[name] if over else 1)
            left -= exact[name]
        if not over and not under:
            exact.update(part)
            break
        open_ones = [name for name in open_ones if name not in exact]
    counts = {name: min(max(int(exact[name]), 1), limits[name]) for name in shares}
    by_remainder = sorted(shares, key=lambda name: int(exact[name]) - exact[name])
    missing = total - sum(counts.values())
    while missing:
        step = 1 if missing > 0 else -1
        for name in by_remainder if step > 0 else reversed(by_remainder):
            if missing and 1 <= counts[name] + step <= limits[name]:
                counts[name] += step
                missing -= step
    return counts


def _pooled(values: Mapping[str, Tensor], density: float) -> dict[str, int]:
    total = count_kept(density, sum(value.numel() for value in values.values()))
    best = [torch.zeros_like(value, dtype=torch.bool) for value in values.values()]
    for mark, value in zip(best, values.values(), strict=True):
        mark[value.argmax()] = True
    ranked = torch.cat(list(values.values())).masked_fill(torch.cat(best), torch.inf)
    kept = top_k(ranked, max(total, len(values)))
    counts = [int(part.sum()) for part in torch.split(kept, [v.numel() for v in values.values()])]
    return dict(zip(values, counts, strict=True))


def _given(values: Mapping[str, Tensor], densities: Mapping[str, float]) -> dict[str, int]:
    for name in densities:
        if name not in values:
            raise ValueError(
                f"a density is given for {name!r}, which is no masked layer; "
                f"the layers are {', '.join(values)}"
            )
    for name in values:
        if name not in densities:
            raise ValueError(f"no density is given for layer {name!r}; give one for every layer")
    return {name: count_kept(densities[name], value.numel()) for name, value in values.items()}


def _size(groups: Groups) -> int:
    return groups.out_first[0] * groups.fan_in
