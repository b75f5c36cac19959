"""Copies of a network with plain weights."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils import parametrize

from robustprune.sparsity import MaskSet, apply_masks, bake


def baked(model: nn.Module, masks: MaskSet | None = None) -> nn.Module:
    """A copy of `model` in eval mode with plain weights, those that `masks` prunes being zero.

    Raises:
        ValueError: a mask whose parameter is missing or of another shape.
    """
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            _make_plain(module)
    if masks is not None:
        apply_masks(model, masks)
        bake(model)
    return model


def _make_plain(module: nn.Module) -> None:
    """Undo the parametrizations of a copied module, keeping the values.

    `bake` can't: torch puts a property on a class made for the module, a copy shares that class
    with its original, and torch's own removal deletes the property for both.
    """
    parametrizations = module._modules["parametrizations"]
    assert isinstance(parametrizations, nn.ModuleDict)
    values = {name: getattr(module, name).detach() for name in parametrizations}
    trained = {
        name: any(p.requires_grad for p in parametrization.parameters())
        for name, parametrization in parametrizations.items()
    }
    module.__class__ = type(module).__bases__[0]  # what it was before
    del module._modules["parametrizations"]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=trained[name]))
