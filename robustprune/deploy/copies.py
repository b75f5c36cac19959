"""Copies of a network with plain weights."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from attacks.network import logits_of, unwrapped
from robustprune.sparsity import MaskSet, apply_masks, bake
from robustprune.sparsity.plain import copy_of


def baked(model: nn.Module, masks: MaskSet | None = None) -> nn.Module:
    """A copy of `model` in eval mode with plain weights, those that `masks` prunes being zero.

    torch.compile and DataParallel are taken off; torch.nn.utils.prune, weight_norm, spectral_norm
    and parametrizations become the weights that they compute.

    Args:
        masks: by the names of `model`'s parameters, or of the network inside its wrapper.

    Raises:
        ValueError: no module, or one of TorchScript or of torch.export; one that cannot be copied;
            a mask whose parameter is missing or of another shape.
    """
    check_module(model)
    copy = bake(copy_of(model)).eval()
    if masks is not None:
        apply_masks(copy, inner_names(model, masks))
        bake(copy)
    return copy


def check_module(model: nn.Module) -> None:
    """Refuse what has no layers that can be read.

    Raises:
        ValueError: no module, or one of TorchScript or of torch.export.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"the network is a {type(model).__name__}; pass the nn.Module itself, whose layers can "
            "be read"
        )
    for name, module in model.named_modules():
        where = f"module {name!r}" if name else "the network"
        kind = None
        if isinstance(module, torch.jit.ScriptModule):
            kind = "TorchScript"
        elif isinstance(module, fx.GraphModule) and "eval" in vars(module):  # torch.export's own
            kind = "torch.export"
        if kind is not None:
            raise ValueError(
                f"{where} was made by {kind}, and its layers can't be read; pass the module that "
                "it was made from"
            )


def inner_names(model: nn.Module, masks: MaskSet) -> MaskSet:
    """`masks` by the names that parameters have inside torch.compile or DataParallel."""
    prefix = wrapper(model)
    return MaskSet({name.removeprefix(prefix): mask for name, mask in masks.items()})


def wrapper(model: nn.Module) -> str:
    """What a wrapper sets before the names of parameters: "module." for DataParallel, or ""."""
    inner = unwrapped(model)
    path = next(name for name, module in model.named_modules() if module is inner)
    return f"{path}." if path else ""


@torch.no_grad()
def check_equal(expected: nn.Module, made: nn.Module, example: Tensor) -> None:
    """Refuse a network that is another function: rounding moves logits by far less than this.

    Raises:
        ValueError: logits on `example` that differ, with the greatest difference.
    """
    allowed = 1e-4
    if example.is_floating_point() and torch.finfo(example.dtype).bits < 32:
        # in float32 no layer rounds as it does in half precision; only biases that took something
        # up are still rounded to it
        allowed = 2 * torch.finfo(example.dtype).eps
        expected, made = copy_of(expected).float(), copy_of(made).float()
        example = example.float()
    wanted, got = logits_of(expected, example), logits_of(made, example)
    scale = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
    gap = float((wanted - got).abs().max()) if wanted.numel() else 0.0
    if not gap <= allowed * scale:
        raise ValueError(
            f"the {type(made).__name__}'s outputs differ from the network's by {gap:.3g} on the "
            "example: its outputs aren't finite, or its forward does something that layers alone "
            "don't show, such as branching on the input or reading a layer's weight"
        )
