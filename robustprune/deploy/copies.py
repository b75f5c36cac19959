"""Make copies of a network with plain weights."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from attacks.network import check_no_hooks, logits_of, unwrapped
from robustprune.sparsity import MaskSet, apply_masks, bake
from robustprune.sparsity.plain import computed_weights, copy_of


def baked(model: nn.Module, masks: MaskSet | None = None) -> nn.Module:
    """Copy `model` in eval mode with plain weights, in which the weights that `masks` prunes are
    zero.

    Wrappers of torch.compile and DataParallel are removed. torch.nn.utils.prune, weight_norm,
    spectral_norm and parametrizations are replaced by the weights that they compute.

    Args:
        masks: masks by the names of the parameters of `model`, or of the network inside its
            wrapper; None if the weights are zero already.

    Raises:
        ValueError: `model` is no module, is one of TorchScript or torch.export, or cannot be
            copied; or a mask has no parameter or another shape.
    """
    check_module(model)
    copy = bake(copy_of(model)).eval()
    if masks is not None:
        apply_masks(copy, inner_names(model, masks))
        bake(copy)
    return copy


def check_module(model: nn.Module) -> None:
    """Refuse an object whose layers can't be read.

    Raises:
        ValueError: it is no module, or one of TorchScript or torch.export.
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


def check_baked(model: nn.Module) -> None:
    """Refuse a network in which something computes a weight, or with a hook.

    Raises:
        ValueError: there is one; the message says what to do.
    """
    if computed := computed_weights(model):
        name, what = next(iter(computed.items()))
        raise ValueError(
            f"masks are applied on the fly, or {what} computes {name!r}; bake them in first "
            "(robustprune.sparsity.plain)"
        )
    check_no_hooks(model)


def inner_names(model: nn.Module, masks: MaskSet) -> MaskSet:
    """Return `masks` by the names that parameters have inside torch.compile or DataParallel."""
    prefix = wrapper(model)
    return MaskSet({name.removeprefix(prefix): mask for name, mask in masks.items()})


def wrapper(model: nn.Module) -> str:
    """Return the prefix of a wrapper for the names of parameters: "module." for DataParallel, or
    ""."""
    inner = unwrapped(model)
    path = next(name for name, module in model.named_modules() if module is inner)
    return f"{path}." if path else ""


@torch.no_grad()
def check_equal(expected: nn.Module, made: nn.Module, example: Tensor) -> None:
    """Refuse a network that computes another function than the original.

    Logits may differ by 1e-4 of the largest one (at least 1), which is far more than rounding.

    Raises:
        ValueError: the logits on `example` differ by more; the message has the greatest difference.
    """
    allowed = 1e-4
    tensors = [example, *expected.parameters()]  # tokens have no precision, but weights do
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
    if torch.finfo(dtype).bits < 32:
        # compare in float32: then only the rounding of changed biases to half precision is left
        allowed = 2 * torch.finfo(dtype).eps
        expected, made = copy_of(expected).float(), copy_of(made).float()
        example = example.float() if example.is_floating_point() else example
    wanted, got = logits_of(expected, example), logits_of(made, example)
    scale = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
    gap = float((wanted - got).abs().max()) if wanted.numel() else 0.0
    if not gap <= allowed * scale:
        raise ValueError(
            f"the {type(made).__name__}'s outputs differ from the network's by {gap:.3g} on the "
            "example: its outputs aren't finite, or its forward does something that layers alone "
            "don't show, such as branching on the input or reading a layer's weight"
        )
