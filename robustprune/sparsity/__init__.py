"""Say which networks are allowed: masks, made from scores, an allocation and a pattern."""

from robustprune.sparsity.allocation import (
    ALLOCATIONS,
    Allocation,
    AllocationName,
    allot,
    check_allocation,
    keep_along,
    keep_best,
)
from robustprune.sparsity.apply import (
    Masked,
    apply_masks,
    computed_once,
    full_masks,
    maskable_layers,
)
from robustprune.sparsity.blocks import Block, Head, output_head, transformer_blocks
from robustprune.sparsity.coverage import Coverage, Folded, LeftOut, coverage
from robustprune.sparsity.density import check_density, count_kept
from robustprune.sparsity.gates import (
    GRANULARITIES,
    GateGroup,
    Granularity,
    draw_masks,
    gate_groups,
    magnitudes,
)
from robustprune.sparsity.largest import top_k
from robustprune.sparsity.mask import LayerDensity, MaskSet
from robustprune.sparsity.matrices import is_single, leaf_of, maskable_leaves, weights_of
from robustprune.sparsity.patterns import PATTERNS, Groups, check_pattern, group_weight, groups_of
from robustprune.sparsity.plain import bake, plain
from robustprune.sparsity.shares import apportion
from robustprune.sparsity.values import bits_of, few_values

__all__ = [
    "ALLOCATIONS",
    "GRANULARITIES",
    "PATTERNS",
    "Allocation",
    "AllocationName",
    "Block",
    "Coverage",
    "Folded",
    "GateGroup",
    "Granularity",
    "Groups",
    "Head",
    "LayerDensity",
    "LeftOut",
    "MaskSet",
    "Masked",
    "allot",
    "apply_masks",
    "apportion",
    "bake",
    "bits_of",
    "check_allocation",
    "check_density",
    "check_pattern",
    "computed_once",
    "count_kept",
    "coverage",
    "draw_masks",
    "few_values",
    "full_masks",
    "gate_groups",
    "group_weight",
    "groups_of",
    "is_single",
    "keep_along",
    "keep_best",
    "leaf_of",
    "magnitudes",
    "maskable_layers",
    "maskable_leaves",
    "output_head",
    "plain",
    "top_k",
    "transformer_blocks",
    "weights_of",
]
