"""Which networks are allowed: masks, made by score × allocation × pattern."""

from robustprune.sparsity.allocation import (
    ALLOCATIONS,
    Allocation,
    AllocationName,
    allot,
    apportion,
    check_allocation,
    keep_best,
)
from robustprune.sparsity.apply import (
    MASKABLE,
    Masked,
    apply_masks,
    computed_once,
    full_masks,
    maskable_layers,
)
from robustprune.sparsity.coverage import Coverage, Folded, LeftOut, coverage
from robustprune.sparsity.gates import (
    GRANULARITIES,
    GateGroup,
    Granularity,
    draw_masks,
    gate_groups,
    magnitudes,
    transformer_blocks,
)
from robustprune.sparsity.mask import LayerDensity, MaskSet
from robustprune.sparsity.patterns import (
    PATTERNS,
    Groups,
    check_density,
    check_pattern,
    count_kept,
    group_weight,
    top_k,
)
from robustprune.sparsity.plain import bake, plain

__all__ = [
    "ALLOCATIONS",
    "GRANULARITIES",
    "MASKABLE",
    "PATTERNS",
    "Allocation",
    "AllocationName",
    "Coverage",
    "Folded",
    "GateGroup",
    "Granularity",
    "Groups",
    "LayerDensity",
    "LeftOut",
    "MaskSet",
    "Masked",
    "allot",
    "apply_masks",
    "apportion",
    "bake",
    "check_allocation",
    "check_density",
    "check_pattern",
    "computed_once",
    "count_kept",
    "coverage",
    "draw_masks",
    "full_masks",
    "gate_groups",
    "group_weight",
    "keep_best",
    "magnitudes",
    "maskable_layers",
    "plain",
    "top_k",
    "transformer_blocks",
]
