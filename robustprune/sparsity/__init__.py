"""Which networks are allowed: masks, made by score × allocation × pattern."""

from robustprune.sparsity.allocation import ALLOCATIONS, AllocationName, allocation
from robustprune.sparsity.apply import (
    MASKABLE,
    Masked,
    apply_masks,
    bake,
    computed_once,
    full_masks,
    maskable_layers,
)
from robustprune.sparsity.mask import LayerDensity, MaskSet
from robustprune.sparsity.patterns import (
    PATTERNS,
    Groups,
    PatternName,
    check_density,
    count_kept,
    group_weight,
    top_k,
)

__all__ = [
    "ALLOCATIONS",
    "MASKABLE",
    "PATTERNS",
    "AllocationName",
    "Groups",
    "LayerDensity",
    "MaskSet",
    "Masked",
    "PatternName",
    "allocation",
    "apply_masks",
    "bake",
    "check_density",
    "computed_once",
    "count_kept",
    "full_masks",
    "group_weight",
    "maskable_layers",
    "top_k",
]
