"""Allocation: how many groups each layer keeps, given the density of the whole."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from robustprune.sparsity.mask import MaskSet
from robustprune.sparsity.patterns import (
    Groups,
    check_density,
    check_pattern,
    check_scores,
    count_kept,
    group_weight,
)

AllocationName = Literal["layer", "row", "global", "erk"]
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
    within: MaskSet | None = None,
) -> MaskSet:
    """The masks that keep the groups with the largest Σ score: allocation, then top-k.

    Args:
        scores: parameter name -> one score a weight, of its shape; the larger the better.
        layers: the layers that own those parameters, as `maskable_layers` gives them.
        within: earlier masks of the same pattern, within which the new ones stay: no group that
            they pruned comes back, and no layer keeps more groups than it has left.

    Raises:
        ValueError: density outside (0, 1], an unknown pattern or allocation, NaN among the
            scores, or an allocation that doesn't fit the density or the pattern, see `allot`.
    """
    check_pattern(pattern, check_density(density))
    check_scores(scores)
    by_row = allocate == "row"
    groups = {name: group_weight(layers[name], pattern, by_row=by_row) for name in scores}
    values = {name: groups[name].reduce(score.detach()) for name, score in scores.items()}
    limits, alive = None, {}
    if within is not None:
        alive = {name: g.reduce(within[name].float()) > 0 for name, g in groups.items()}
        limits = {name: int(left.sum()) for name, left in alive.items()}
        values = {
            name: value.masked_fill(~alive[name].to(value.device), -torch.inf)
            for name, value in values.items()
        }
    counts = allot(values, groups, density, allocate, limits=limits)
    masks = {}
    for name, g in groups.items():
        chosen = g.choose(values[name], counts[name])
        masks[name] = g.expand(chosen & alive[name].to(chosen.device) if alive else chosen)
    return MaskSet(masks)


def allot(
    values: Mapping[str, Tensor],
    groups: Mapping[str, Groups],
    density: float,
    allocate: Allocation,
    *,
    limits: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Groups that each layer keeps.

    - "layer": ⌈density · groups⌉ of each (arXiv 2110.14068, Sec. 3.2);
    - "row": ⌈density · n⌉ of the n groups of each output, as Wanda compares weights (Sun et al.
      2023, arXiv 2306.11695, Sec. 3);
    - "global": the best of all layers together, at least one in each, since a layer without a
      single group left would cut the network in two;
    - "erk": ∝ (Σ of the weight's dimensions) / (their product), so that small layers stay denser
      (Evci et al. 2020, arXiv 1911.11134, Sec. 3);
    - a mapping: ⌈its density · groups⌉ of each layer.

    "global" and "erk" keep ⌈density · groups⌉ in all (more only where one a layer needs it).

    Args:
        values: parameter name -> one value per group.
        limits: the most groups that a layer may keep; default all of its groups. Groups beyond
            the limit have the value −inf.

    Raises:
        ValueError: an unknown allocation; a mapping that misses a layer, names another or keeps
            another share than `density`; one that N:M, which fixes every layer's share, overrules;
            "row" where an output has but one group, or groups span outputs.
    """
    check_allocation(allocate, groups, density)
    numbers = {name: g.number for name, g in groups.items()}
    limits = numbers if limits is None else limits
    if isinstance(allocate, Mapping):
        counts = _given(numbers, allocate)
    elif allocate == "layer":
        counts = {name: count_kept(density, number) for name, number in numbers.items()}
    elif allocate == "global":
        wanted = count_kept(density, sum(numbers.values()))
        counts = count_best(values, min(wanted, sum(limits.values())), least=1)
    elif allocate == "row":
        rows = {name: g.out_first[0] for name, g in groups.items()}
        counts = {n: rows[n] * count_kept(density, numbers[n] // rows[n]) for n in groups}
    else:
        shares = {name: sum(g.out_first) / _size(g) * g.number for name, g in groups.items()}
        counts = apportion(shares, limits, count_kept(density, sum(numbers.values())))
    return {name: groups[name].fixed or min(kept, limits[name]) for name, kept in counts.items()}


def check_allocation(
    allocate: Allocation, groups: Mapping[str, Groups], density: float | None
) -> None:
    """Refuse an allocation that is unknown, or that something else overrules.

    Args:
        density: that a mapping must keep over all groups, to two decimals; None for any.

    Raises:
        ValueError: as `allot`.
    """
    if not isinstance(allocate, Mapping) and allocate not in ALLOCATIONS:
        raise ValueError(
            f"unknown allocation {allocate!r}; choose one of {', '.join(ALLOCATIONS)}, or give "
            "a density for each layer"
        )
    fixed = [g.pattern for g in groups.values() if g.fixed is not None]
    if fixed and allocate != "layer":
        said = repr(allocate) if isinstance(allocate, str) else "a density for each layer"
        raise ValueError(
            f"pattern {fixed[0]!r} fixes what each layer keeps, so that allocate={said} has no "
            "effect; set allocate to 'layer'"
        )
    for name, g in groups.items() if allocate == "row" else ():
        if g.in_row is None or (g.in_row == 1 and g.fan_in > 1):
            what = "spans outputs" if g.in_row is None else "is all that an output has"
            raise ValueError(
                f"allocate='row' compares the groups of each output, and a group of pattern "
                f"{g.pattern!r} {what} in {name!r}; take pattern 'element', another allocation, or "
                "name the layer in `dense`"
            )
    if not isinstance(allocate, Mapping):
        return
    numbers = {name: g.number for name, g in groups.items()}
    counts = _given(numbers, allocate)
    if density is None:
        return
    total = sum(numbers.values())
    share = sum(counts.values()) / total
    if abs(share - density) > max(0.005, len(numbers) / total):
        raise ValueError(
            f"the densities given for each layer keep {share:.3g} of all groups, density says "
            f"{density:g}; set density to {share:.3g}, or mend the densities"
        )


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


def count_best(values: Mapping[str, Tensor], total: int, *, least: int = 0) -> dict[str, int]:
    """How many of the `total` largest of all values each entry has; of equal ones the first, and
    NaN counts as less than any number. Nothing as large as all values together is made.

    Args:
        least: 0, or 1 for at least one in each entry, its largest.
    """
    dtype = functools.reduce(torch.promote_types, (value.dtype for value in values.values()))
    best = {n: max(int(k.max()) for k in _keys(v, dtype)) for n, v in values.items() if least}
    wanted = min(max(total, len(best)), sum(v.numel() for v in values.values())) - len(best)
    if wanted == 0:
        return dict.fromkeys(values, least)
    threshold = _key_of_rank(values, dtype, wanted, without=list(best.values()))
    counts, equal = dict.fromkeys(values, least), dict.fromkeys(values, 0)
    for name, value in values.items():
        for keys in _keys(value, dtype):
            counts[name] += int((keys > threshold).sum())
            equal[name] += int((keys == threshold).sum())
        if least:
            counts[name] -= best[name] > threshold
            equal[name] -= best[name] == threshold
    left = wanted + len(best) - sum(counts.values())
    for name in values:
        counts[name] += min(equal[name], left)
        left -= min(equal[name], left)
    return counts


def _keys(values: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Whole numbers that lie as the values do, a piece of the values at a time."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    for piece in torch.split(values.detach().flatten(), 1 << 18):
        piece = piece.to(dtype)
        piece = torch.where(piece.isnan(), -torch.inf, piece) + 0.0  # 0 for −0
        bits = piece.view(whole)
        # of two negative floats, the smaller one has the larger bits behind its sign
        bits = torch.where(bits < 0, bits ^ torch.iinfo(whole).max, bits)
        yield bits.int() if whole == torch.int16 else bits


def _key_of_rank(
    values: Mapping[str, Tensor], dtype: torch.dtype, rank: int, *, without: Sequence[int]
) -> int:
    """The rank-th largest key of the values, some keys left out: found from its leading 16 bits on,
    by counting how many values have each of the 65,536 that are possible."""
    start = -(1 << 15)
    for shift in range(8 * dtype.itemsize - 16, -1, -16):
        counts = torch.zeros(1 << 16, dtype=torch.int64)
        for value in values.values():
            for keys in _keys(value, dtype):
                digits = (keys >> shift) - start
                digits = digits[(digits >= 0) & (digits < 1 << 16)]
                counts += torch.bincount(digits, minlength=1 << 16).cpu()
        for key in without:
            if 0 <= (digit := (key >> shift) - start) < 1 << 16:
                counts[digit] -= 1
        down = counts.flip(0).cumsum(0)
        place = int((down < rank).sum())
        rank -= int(down[place - 1]) if place else 0
        found = start + (1 << 16) - 1 - place
        start = found << 16
    return found


def _given(numbers: Mapping[str, int], densities: Mapping[str, float]) -> dict[str, int]:
    for name in densities:
        if name not in numbers:
            raise ValueError(
                f"a density is given for {name!r}, which is no masked layer; "
                f"the layers are {', '.join(numbers)}"
            )
    for name in numbers:
        if name not in densities:
            raise ValueError(f"no density is given for layer {name!r}; give one for every layer")
    return {name: count_kept(densities[name], number) for name, number in numbers.items()}


def _size(groups: Groups) -> int:
    return groups.out_first[0] * groups.fan_in
