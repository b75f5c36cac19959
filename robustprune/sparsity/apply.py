"""Put masks on a model, as parametrizations or baked in, and list what can be masked."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from robustprune.sparsity.blocks import output_head
from robustprune.sparsity.mask import MaskSet
from robustprune.sparsity.matrices import maskable_leaves, weights_of
from robustprune.sparsity.plain import computed_weights


def maskable_layers(model: nn.Module, *, dense: Iterable[str] = ()) -> dict[str, nn.Module]:
    """Return the layers whose weights a search may mask, by parameter name, in registration order.

    These are Linear, Conv1d to Conv3d, transposed convolutions and the Conv1D of transformers, with
    one weight each, and RNN, LSTM, GRU, their cells and MultiheadAttention, with several (see
    `maskable_leaves`), so that such a layer is there once for each of its weights.

    Weights that two modules share (tied embeddings) are left out, because a mask on one would
    change the other. So are weights that something computes (weight_norm, torch.nn.utils.prune),
    until `plain` makes Parameters of them. `coverage` lists what is left out.

    Args:
        dense: the layers that no mask may touch: "first", "last", the name of a module or of its
            weight, or a pattern of such names ("stages.0.*"). The last layer of a transformer is
            its output head (see `output_head`), even where it is tied to the embedding and can't be
            masked anyway. Otherwise first and last refer to the order in which the network
            registers its layers, maskable or not, and not to the order of the calls.

    Raises:
        ValueError: the network is masked already, a name in `dense` is unknown, "last" is used for
            a transformer without a head, or no layer is left to mask.
    """
    refuse_masked(model)
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    every: dict[str, list[str]] = {}  # the weights of each layer, by its path
    layers: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        leaves = maskable_leaves(module)
        if leaves or isinstance(module, nn.Bilinear):
            every[path] = [f"{path}.{leaf}" if path else leaf for leaf in leaves or ("weight",)]
        for name, leaf in zip(every.get(path, ()), leaves, strict=False):
            if owners.get(id(module._parameters.get(leaf))) == 1:
                layers[name] = module
    left_out: set[str] = set()
    for wanted in (dense,) if isinstance(dense, str) else dense:
        left_out.update(_named(model, every, wanted))
    layers = {name: module for name, module in layers.items() if name not in left_out}
    if not layers:
        computed = ", ".join(f"{name} by {what}" for name, what in computed_weights(model).items())
        raise ValueError(
            f"{type(model).__name__} has nothing to mask: no Linear, Conv, ConvTranspose, "
            "recurrent or attention layer is left (weights shared by two modules and those in "
            "`dense` don't count"
            + (
                f", nor do weights that are computed: {computed}; robustprune.sparsity.plain makes "
                "plain ones of them)"
                if computed
                else ")"
            )
        )
    return layers


def _named(model: nn.Module, every: Mapping[str, list[str]], wanted: str) -> list[str]:
    """Return the weights that an entry of `dense` names."""
    if wanted in ("first", "last") and every:
        return every[next(iter(every)) if wanted == "first" else _last(model, list(every))]
    found = [
        name
        for path, names in every.items()
        for name in names
        if any(fnmatch.fnmatch(called, wanted) for called in (path, name))
    ]
    if not found:
        known = [names[0] if len(names) == 1 else path for path, names in every.items()]
        raise ValueError(
            f"cannot keep {wanted!r} dense: no such layer; use 'first', 'last' or one of "
            f"{', '.join(known) or '(the model has no maskable layer)'}"
        )
    return found


def _last(model: nn.Module, paths: Sequence[str]) -> str:
    try:
        head = output_head(model)
    except ValueError:  # no transformer that is known
        return paths[-1]
    if head is None:
        raise ValueError(
            f"cannot keep 'last' dense: {type(model).__name__} is a transformer without an output "
            "head; leave 'last' out, or name the layers"
        )
    return head.name


def full_masks(model: nn.Module) -> MaskSet:
    """Return masks that keep every weight of the maskable layers: a dense network as a MaskSet."""
    return MaskSet(
        {
            name: torch.ones(weight.shape, dtype=torch.bool)
            for name, weight in weights_of(maskable_layers(model)).items()
        }
    )


class MaskParametrization(nn.Module):
    """This is the base class of every parametrization that masks a weight."""


def refuse_masked(model: nn.Module) -> None:
    """Refuse a network with masks as parametrizations, because another mask would replace them.

    Raises:
        ValueError: the network has such a mask.
    """
    masked = sorted(
        name.replace("parametrizations.", "").rpartition(".")[0]
        for name, module in model.named_modules()
        if isinstance(module, MaskParametrization)
    )
    if masked:
        more = f" and {len(masked) - 3} more" if len(masked) > 3 else ""
        raise ValueError(
            f"{type(model).__name__} is masked already: {', '.join(masked[:3])}{more}; bake the "
            "masks in first (robustprune.sparsity.bake), which makes their zeros ordinary weights"
        )


class Masked(MaskParametrization):
    """The parametrization W ↦ m ⊙ W."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)  # boolean: weight averages copy it unchanged

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class Projected(Masked):
    """The parametrization W ↦ m ⊙ W whose gradient is that of m ⊙ W, so that a pruned weight has a
    gradient, too."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (weight * self.mask - weight).detach()


def apply_masks(model: nn.Module, masks: MaskSet, *, projected: bool = False) -> None:
    """Mask the model's weights in place, as parametrizations.

    Pruned weights then stay exactly zero, whatever an optimizer does to the tensors behind them.
    Build the optimizer after this call.

    Args:
        projected: whether pruned weights get gradients, see `Projected`.

    Raises:
        ValueError: the parameter of a mask is missing or has another shape.
    """
    for name, mask in masks.items():
        module_name, _, leaf = name.rpartition(".")
        try:
            weight = model.get_parameter(name)
        except AttributeError as error:
            raise ValueError(f"the model has no parameter {name!r} to mask") from error
        if weight.shape != mask.shape:
            raise ValueError(
                f"mask {name!r} has shape {tuple(mask.shape)}, the parameter {tuple(weight.shape)}"
            )
        kind = Projected if projected else Masked
        parametrization = kind(mask.to(weight.device))
        parametrize.register_parametrization(
            model.get_submodule(module_name), leaf, parametrization
        )


@contextmanager
def computed_once(model: nn.Module) -> Iterator[None]:
    """Compute each parametrized weight of `model` once, and reuse it inside this context, for all
    steps of an inner attack and for the training step.

    Enter it before an attack freezes the parameters. Otherwise the stored weights would have no
    graph back to the tensors that are trained.
    """
    with parametrize.cached():
        for module in model.modules():
            if parametrize.is_parametrized(module):
                for name in cast(Mapping[str, nn.Module], module.parametrizations):
                    getattr(module, name)
        yield
