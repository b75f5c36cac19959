"""How many groups each layer keeps.

The allocations are those of `robustprune.sparsity.allot`, and two that run the dense network once
to use its inputs. Both use s_ij = |w_ij| ‖x_j‖₂, the score of Wanda (Sun et al. 2023, arXiv
2306.11695).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from robustprune.layerwise.calls import input_of
from robustprune.layerwise.inputs import Batch
from robustprune.layerwise.moments import (
    as_matrices,
    as_weight,
    energy_of,
    outputs_of,
    squares_of,
)
from robustprune.run.suggest import did_you_mean
from robustprune.sparsity import (
    ALLOCATIONS,
    Allocation,
    Groups,
    allot,
    apportion,
    check_allocation,
    count_kept,
    transformer_blocks,
)

#: the smallest share of its groups that a layer keeps with OWL
LEAST = 0.01


@dataclass(frozen=True)
class Owl:
    """Outlier-weighed layer densities (OWL; Yin et al. 2024, arXiv 2310.05175).

    With D_l the share of the scores of block l that exceed `outliers` times their mean,

        density_l = density + 2 λ (δ_l − mean δ),   δ_l = (D_l − min D) / (max D − min D),

    where the mean counts each block by its size, so that the total is kept. A block is a layer of a
    transformer; in another network each layer is one. Densities are brought into [0.01, 1].

    Attributes:
        outliers: M > 0; 5 in the authors' README.
        spread: λ in [0, 0.5]; 0.08 in the authors' README. Densities differ by at most 2 λ.
    """

    outliers: float = 5.0
    spread: float = 0.08

    def __post_init__(self) -> None:
        if not self.outliers > 0:
            raise ValueError(
                f"outliers={self.outliers} must be more than 0, as a multiple of the mean score"
            )
        if not 0 <= self.spread <= 0.5:
            raise ValueError(f"spread={self.spread} must be in [0, 0.5]")


#: the allocations of `prune_layerwise`; "owl" is Owl()
Ratios = Allocation | Literal["owl"] | Owl


def check_ratios(allocate: Ratios, groups: Mapping[str, Groups], density: float) -> None:
    """Refuse an allocation that `layer_counts` would refuse.

    Raises:
        ValueError: the allocation is unknown, or it doesn't fit the density or the pattern.
    """
    if isinstance(allocate, Owl) or allocate == "owl":
        if fixed := [g.pattern for g in groups.values() if g.fixed is not None]:
            raise ValueError(
                f"pattern {fixed[0]!r} fixes what each layer keeps, so that allocate='owl' has no "
                "effect; set allocate to 'layer'"
            )
        return
    if isinstance(allocate, str) and allocate not in ALLOCATIONS:
        names = (*ALLOCATIONS, "owl")
        raise ValueError(
            f"unknown allocation {allocate!r}{did_you_mean(allocate, names)}; choose one of "
            f"{', '.join(names)}, or give a density for each layer"
        )
    check_allocation(allocate, groups, density)


def layer_counts(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    groups: Mapping[str, Groups],
    batches: Sequence[Batch],
    *,
    density: float,
    allocate: Ratios,
    device: torch.device,
    felt: Mapping[str, Tensor] | None = None,
) -> dict[str, int]:
    """Return the number of groups that each layer keeps.

    "owl" is `Owl`. "global" keeps the groups with the largest Σ s_ij² / ‖W X‖²_F of all layers,
    which is the share of a layer's outputs that is lost with a weight. The others are those of
    `robustprune.sparsity.allot` and use no data.

    Args:
        network: the dense network, in eval mode.
        layers: its layers by the names of their weights.
        felt: how much the loss feels each output, √F of `robustprune.layerwise.fisher`; "global"
            then keeps the groups with the largest Σ s_ij² F_i, the rise of the loss.
    """
    if isinstance(allocate, Owl) or allocate == "owl":
        owl = allocate if isinstance(allocate, Owl) else Owl()
        scores = dense_scores(network, layers, groups, batches, device, share=False)
        return outlier_weighed(owl, scores, _blocks(network, layers), groups, density)
    values: dict[str, Tensor] = {}
    if allocate == "global":
        scores = dense_scores(network, layers, groups, batches, device, share=not felt)
        for name, root in (felt or {}).items():
            g, rows, *ins = groups[name].laid_out
            root = root.to(scores[name]).reshape(g, rows, 1).expand(g, rows, math.prod(ins))
            scores[name] = (scores[name] * as_weight(groups[name], root)).square()
        values = {name: groups[name].reduce(score) for name, score in scores.items()}
    return allot(values, groups, density, allocate)


@torch.no_grad()
def dense_scores(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    groups: Mapping[str, Groups],
    batches: Sequence[Batch],
    device: torch.device,
    *,
    share: bool,
) -> dict[str, Tensor]:
    """Return |w_ij| ‖x_j‖, or with `share` its square divided by ‖W X‖²_F, for each weight."""
    energy: dict[str, Tensor] = {}
    power: dict[str, Tensor] = {}
    counted: list[Tensor | None] = [None]

    def look(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = input_of(args, kwargs)
        assert x is not None
        found = energy_of(layer, x, dtype=torch.float64, counted=counted[0])
        energy[name] = energy[name] + found if name in energy else found
        if share:
            weight = cast(Tensor, layer.weight)
            given = squares_of(layer, outputs_of(layer, weight, x.to(weight.dtype)), counted[0])[0]
            power[name] = power[name] + given.sum() if name in power else given.sum()

    handles = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: look(name, module, args, kwargs),
            with_kwargs=True,
        )
        for name, layer in layers.items()
    ]
    try:
        for batch in batches:
            counted[0] = batch.counted
            batch.call(network, device)
    finally:
        for handle in handles:
            handle.remove()
    scores: dict[str, Tensor] = {}
    for name, layer in layers.items():
        weight = as_matrices(groups[name], cast(Tensor, layer.weight).double())
        score = weight.abs() * energy[name].sqrt().unsqueeze(-2)
        if share:
            score = score.square() / power[name].clamp_min(torch.finfo(torch.float64).tiny)
        scores[name] = as_weight(groups[name], score)
    return scores


def _blocks(network: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return for each layer the block in which it is compared: a transformer's layer, or itself."""
    try:
        blocks = [block.name for block in transformer_blocks(network)]
    except ValueError:
        blocks = []
    return {
        name: next((block for block in blocks if name.startswith(f"{block}.")), name)
        for name in layers
    }


def outlier_weighed(
    owl: Owl,
    scores: Mapping[str, Tensor],
    blocks: Mapping[str, str],
    groups: Mapping[str, Groups],
    density: float,
) -> dict[str, int]:
    """Return the number of groups that each layer keeps with `owl`.

    Args:
        scores: for each layer, one score per weight.
        blocks: layer -> the block to which it belongs.
    """
    members: dict[str, list[str]] = {}
    for name, block in blocks.items():
        members.setdefault(block, []).append(name)
    outliers: dict[str, float] = {}
    for block, names in members.items():
        size = sum(scores[name].numel() for name in names)
        mean = sum(float(scores[name].sum()) for name in names) / size
        above = sum(int((scores[name] > owl.outliers * mean).sum()) for name in names)
        outliers[block] = above / size
    low, high = min(outliers.values()), max(outliers.values())
    raised = {
        block: 2 * owl.spread * (share - low) / (high - low) if high > low else 0.0
        for block, share in outliers.items()
    }
    numbers = {name: groups[name].number for name in scores}
    total = sum(numbers.values())
    mean_raise = sum(raised[blocks[name]] * number for name, number in numbers.items()) / total
    shares = {
        name: number * min(max(density + raised[blocks[name]] - mean_raise, LEAST), 1.0)
        for name, number in numbers.items()
    }
    return apportion(shares, numbers, count_kept(density, total))
