"""Copies of a network with plain weights."""

from __future__ import annotations

import copy

from torch import nn

from robustprune.sparsity import MaskSet, apply_masks, bake


def baked(model: nn.Module, masks: MaskSet | None = None) -> nn.Module:
    """A copy of `model` in eval mode with plain weights, those that `masks` prunes being zero.

    Raises:
        ValueError: a mask whose parameter is missing or of another shape.
    """
    model = bake(copy.deepcopy(model).eval())
    if masks is not None:
        apply_masks(model, masks)
        bake(model)
    return model
