"""Allocate groups to layers: how many each layer keeps, given the density of the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from robustprune.sparsity.density import check_density, count_kept
from robustprune.sparsity.mask import MaskSet
from robustprune.sparsity.patterns import Groups, check_pattern, groups_of
from robustprune.sparsity.ranking import check_scores, count_best
from robustprune.sparsity.shares import apportion, ideal_gas_quotas

AllocationName = Literal["layer", "row", "global", "erk", "igq"]
ALLOCATIONS: tuple[AllocationName, ...] = get_args(AllocationName)

#: a name, or a mapping from the parameter name of each layer to its density
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
    """Return the masks that keep the groups with the largest sum of scores.

    The allocation sets the number of groups for each layer, and top-k chooses them.

    Args:
        scores: for each parameter name a tensor of the weight's shape with one score for each
            weight; the largest scores are kept.
        layers: the layers that own those parameters, as returned by `maskable_layers`.
        density: the fraction of the weights that is kept, in (0, 1].
        pattern: which weights are kept together, see `patterns`.
        allocate: how the kept weights are shared out over the layers, see `allot`.
        within: earlier masks of the same pattern; a group that they prune stays pruned, and no
            layer keeps more groups than they keep. None sets no limit.

    Raises:
        ValueError: `density` is outside (0, 1], the pattern or allocation is unknown, a score is
            NaN, or the allocation doesn't fit the density or the pattern, see `allot`.
    """
    check_pattern(pattern, check_density(density))
    check_scores(scores)
    groups = groups_of({n: layers[n] for n in scores}, pattern, allocate=allocate)
    values = {name: groups[name].reduce(score.detach()) for name, score in scores.items()}
    limits, alive = None, {}
    if within is not None:
        alive = {name: g.reduce(within[name].float()) > 0 for name, g in groups.items()}
        limits = {name: int(left.sum()) for name, left in alive.items()}
        values = {
            name: value.masked_fill(~alive[name].to(value.device), -torch.inf)
            for name, value in values.items()
        }
    compared = values  # only these are compared; fewer take less time
    if limits is not None and all(limits.values()):
        compared = {name: value[alive[name].to(value.device)] for name, value in values.items()}
    counts = allot(compared, groups, density, allocate, limits=limits)
    masks = {}
    for name, g in groups.items():
        chosen = g.choose(values[name], counts[name])
        masks[name] = g.expand(chosen & alive[name].to(chosen.device) if alive else chosen)
    return MaskSet(masks)


def keep_along(
    scores: Mapping[str, Tensor],
    layers: Mapping[str, nn.Module],
    density: float,
    path: Callable[[float], float],
    *,
    pattern: str,
    allocate: Allocation,
    within: MaskSet | None = None,
) -> MaskSet:
    """Return the masks of `keep_best` on the way to a density: at path(density), and if each layer
    has its own density, at path of that one. N:M keeps ⌈path(density) · M⌉ of every M.

    Args:
        path: a function from the density at the end to the present one, in (0, 1].
    """
    now = path(density)
    if ":" in pattern:
        most = int(pattern.partition(":")[2])
        kept = count_kept(now, most)
        pattern, now = f"{kept}:{most}", kept / most
    elif now != density and isinstance(allocate, Mapping):
        allocate = {name: path(share) for name, share in allocate.items()}
        groups = groups_of(layers, pattern)
        kept = sum(given_counts(groups, allocate).values())
        now = kept / sum(g.number for g in groups.values())
    return keep_best(scores, layers, density=now, pattern=pattern, allocate=allocate, within=within)


def allot(
    values: Mapping[str, Tensor],
    groups: Mapping[str, Groups],
    density: float,
    allocate: Allocation,
    *,
    limits: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Return the number of groups that each layer keeps.

    - "layer" keeps ⌈density · groups⌉ of each layer (arXiv 2110.14068, Sec. 3.2);
    - "row" keeps ⌈density · n⌉ of the n groups of each output, as Wanda compares weights (Sun et
      al. 2023, arXiv 2306.11695, Sec. 3);
    - "global" keeps the best of all layers together, and at least one in each layer, because a
      layer without any group would interrupt the network;
    - "erk" keeps a share ∝ (sum of the weight's dimensions) / (their product), so that small layers
      stay denser (Evci et al. 2020, arXiv 1911.11134, Sec. 3);
    - "igq" keeps the share 1/(1 + F n) of n groups, with one F for all layers, so that small layers
      stay denser and none is full (ideal gas quotas, Vysogorets & Kempe 2021, arXiv 2107.02306);
    - a mapping keeps ⌈its density · groups⌉ of each layer.

    Each matrix of a weight that stacks several (the gates of an LSTM) counts as a layer in "layer",
    "erk", "igq" and a mapping, and the weight as one in "global".

    "global", "erk" and "igq" keep ⌈density · groups⌉ in all, or more if each layer needs one.

    Args:
        values: for each parameter name one value per group, (number of groups,).
        groups: the groups of each layer.
        density: the fraction of the groups that is kept, in (0, 1].
        allocate: one of the above.
        limits: the largest number of groups that a layer may keep; None for all of its groups.
            Groups beyond the limit must have the value −inf.

    Raises:
        ValueError: the allocation is unknown; a mapping misses a layer, names another or keeps
            another share than `density`; the pattern N:M fixes the share of every layer; or the
            allocation is "row" and an output has only one group, or groups span several outputs.
    """
    check_allocation(allocate, groups, density)
    numbers = {name: g.number for name, g in groups.items()}
    limits = numbers if limits is None else limits
    if isinstance(allocate, Mapping):
        counts = given_counts(groups, allocate)
    elif allocate == "layer":
        counts = {name: _kept_of(g, density) for name, g in groups.items()}
    elif allocate == "global":
        wanted = count_kept(density, sum(numbers.values()))
        counts = count_best(values, min(wanted, sum(limits.values())), least=1)
    elif allocate == "row":
        rows = {name: g.out_first[0] for name, g in groups.items()}
        counts = {n: rows[n] * count_kept(density, numbers[n] // rows[n]) for n in groups}
    else:
        shares = {n: sum(g.matrix) / math.prod(g.matrix) * g.number for n, g in groups.items()}
        if allocate == "igq":
            shares = _quotas(groups, density)
        counts = apportion(shares, limits, count_kept(density, sum(numbers.values())))
    return {name: groups[name].fixed or min(kept, limits[name]) for name, kept in counts.items()}


def check_allocation(
    allocate: Allocation, groups: Mapping[str, Groups], density: float | None
) -> None:
    """Refuse an allocation that is unknown or that can't have the wanted effect.

    Args:
        density: the fraction of all groups that a mapping must keep, to two decimals; None for any.

    Raises:
        ValueError: as in `allot`.
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
    counts = given_counts(groups, allocate)
    if density is None:
        return
    total = sum(g.number for g in groups.values())
    share = sum(counts.values()) / total
    if abs(share - density) > max(0.005, sum(g.stacked for g in groups.values()) / total):
        raise ValueError(
            f"the densities given for each layer keep {share:.3g} of all groups, density says "
            f"{density:g}; set density to {share:.3g}, or correct the densities"
        )


def _quotas(groups: Mapping[str, Groups], density: float) -> dict[str, float]:
    """Return the ideal gas quotas of all matrices of each weight together."""
    each = {f"{n} {i}": g.number // g.stacked for n, g in groups.items() for i in range(g.stacked)}
    quotas = ideal_gas_quotas(each, density)
    return {n: sum(quotas[f"{n} {i}"] for i in range(g.stacked)) for n, g in groups.items()}


def given_counts(groups: Mapping[str, Groups], densities: Mapping[str, float]) -> dict[str, int]:
    """Return how many groups each layer keeps at a density of its own.

    Raises:
        ValueError: a layer has no density, or a density no layer.
    """
    for name in densities:
        if name not in groups:
            raise ValueError(
                f"a density is given for {name!r}, which is no masked layer; "
                f"the layers are {', '.join(groups)}"
            )
    for name in groups:
        if name not in densities:
            raise ValueError(f"no density is given for layer {name!r}; give one for every layer")
    return {name: _kept_of(g, densities[name]) for name, g in groups.items()}


def _kept_of(groups: Groups, density: float) -> int:
    """Return ⌈density · n⌉ for the n groups of each matrix, summed over the matrices."""
    return groups.stacked * count_kept(density, groups.number // groups.stacked)
