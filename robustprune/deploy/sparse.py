"""Unstructured zeros put to use: linear layers in compressed rows, where that is faster."""

from __future__ import annotations

import copy
import statistics

import torch
from torch import Tensor, nn

from robustprune.deploy.copies import baked
from robustprune.deploy.csr import CSRLinear
from robustprune.deploy.timing import time_in_turns
from robustprune.sparsity import MaskSet


@torch.no_grad()
def to_csr(layer: nn.Linear, mask: Tensor | None = None) -> CSRLinear:
    """The same layer with its non-zero weights, or those that `mask` keeps, in CSR.

    Raises:
        ValueError: a mask of another shape than the weight.
    """
    weight = layer.weight.detach()
    if mask is not None:
        if mask.shape != weight.shape:
            raise ValueError(
                f"the mask has shape {tuple(mask.shape)}, the weight {tuple(weight.shape)}"
            )
        weight = weight * mask.to(weight.device, weight.dtype)
    # By hand: torch's own conversion stores the indices as int64, which is slower to multiply by.
    rows, columns = weight.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(weight))
    sparse = CSRLinear(layer.in_features, layer.out_features, len(rows), layer.bias is not None)
    sparse.to(weight.device, weight.dtype)
    sparse.crow[1:] = counts.cumsum(0).int()
    sparse.col.copy_(columns.int())
    sparse.values.copy_(weight[rows, columns])
    if sparse.bias is not None:
        sparse.bias.copy_(layer.bias)
    sparse.check()
    return sparse.train(layer.training)


def fastest(
    layer: nn.Linear,
    mask: Tensor | None,
    example: Tensor,
    *,
    repeats: int = 30,
    gain: float = 1.1,
) -> nn.Linear | CSRLinear:
    """`layer` under `mask` in whichever form is faster on this machine: dense, or CSR.

    Both are timed in turns on `example` in inference mode, on the threads that torch uses now,
    and the medians are compared. The winner depends on batch size, threads and machine: choose
    them as they will be.

    Args:
        mask: bool (out, in), or None for the zeros that the weight has.
        example: (..., in), on the layer's device, a batch as large as in use.
        repeats: timed calls of each, after three to warm up.
        gain: CSR is taken if dense time / CSR time is at least this; above one, because a
            near-tie isn't worth another format.

    Returns:
        A new layer.

    Raises:
        ValueError: a mask that doesn't fit; fewer than one repeat.
    """
    sparse = to_csr(layer, mask)
    dense = copy.deepcopy(layer)
    if mask is not None:
        with torch.no_grad():
            dense.weight.mul_(mask.to(dense.weight.device, dense.weight.dtype))
    dense_times, sparse_times = time_in_turns([dense, sparse], example, repeats=repeats)
    ratio = statistics.median(dense_times) / statistics.median(sparse_times)
    return sparse if ratio >= gain else dense


def sparsify(
    model: nn.Module,
    masks: MaskSet | None,
    example: Tensor,
    *,
    repeats: int = 30,
    gain: float = 1.1,
) -> nn.Module:
    """A copy of `model` under `masks`, each linear layer in its `fastest` form, in eval mode.

    Convolutions stay dense: masks give them no speed (docs/deploy.md has measurements).

    Args:
        masks: what `model` prunes; None if its weights are zero already, as after `slim`.
        example: a batch (N, ...) on the model's device, as large as in use: each layer is timed
            on what it receives from it.
        repeats, gain: as of `fastest`.

    Raises:
        ValueError: masks that don't fit the model; fewer than one repeat.
    """
    model = baked(model, masks)
    for name in [n for n, module in model.named_modules() if type(module) is nn.Linear]:
        # Anew for each layer: what CSR hands on lies in memory as CSR wants it, and a dense layer
        # behind it is slower than behind a dense one.
        received = _received(model, name, example)
        if received is None:
            continue
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        parent = model.get_submodule(name.rpartition(".")[0])
        chosen = fastest(layer, None, received, repeats=repeats, gain=gain)
        setattr(parent, name.rpartition(".")[2], chosen)
    return model


@torch.no_grad()
def _received(model: nn.Module, name: str, example: Tensor) -> Tensor | None:
    """What a layer receives, at its last call, when `model` sees `example`; None without a call."""
    received: list[Tensor] = []
    layer = model.get_submodule(name)
    handle = layer.register_forward_pre_hook(lambda _, args: received.append(args[0]))
    try:
        model(example)
    finally:
        handle.remove()
    return received[-1] if received else None
