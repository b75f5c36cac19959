"""Use unstructured zeros: store linear layers as compressed sparse rows where that is faster."""

from __future__ import annotations

import copy
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from attacks.network import beside_forward
from robustprune.deploy.copies import baked, check_equal
from robustprune.deploy.csr import CSRLinear
from robustprune.deploy.timing import seconds_within, time_in_turns
from robustprune.sparsity import MaskSet
from robustprune.sparsity.blocks import hf_conv1d
from robustprune.sparsity.plain import copy_of

#: the number of calls of a network in each form before what is timed
_WARMUP = 3


@torch.no_grad()
def to_csr(layer: nn.Linear, mask: Tensor | None = None) -> CSRLinear:
    """Return the same layer in CSR, with its non-zero weights or with those that `mask` keeps.

    Raises:
        ValueError: the mask has another shape than the weight.
    """
    weight = layer.weight.detach()
    if mask is not None:
        if mask.shape != weight.shape:
            raise ValueError(
                f"the mask has shape {tuple(mask.shape)}, the weight {tuple(weight.shape)}"
            )
        weight = weight * mask.to(weight.device, weight.dtype)
    # torch's own conversion stores the indices as int64, with which products are slower.
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
    """Return `layer` under `mask` in the form that is faster on this machine: dense, or CSR.

    Both forms are timed in turns on `example` in inference mode with torch's present number of
    threads, and the medians are compared. The layer is timed alone, so that its weights are in the
    processor's cache; within a network they may not be, see `sparsify`. The result depends on batch
    size, threads and machine, so choose them as they will be in use.

    Args:
        mask: bool (out, in), or None for the zeros that the weight has.
        example: (..., in), on the layer's device, a batch as large as in use.
        repeats: the number of timed calls of each form, after three calls to warm up.
        gain: CSR is chosen if dense time / CSR time is at least this number. It is above one,
            because another format isn't worth a tiny gain.

    Returns:
        A new layer; `layer` is not changed.

    Raises:
        ValueError: the mask doesn't fit, or `repeats` is below 1.
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
    """Copy `model` under `masks` in eval mode, with each linear layer in the form that is faster.

    All layers are timed within calls of the whole network, dense and in CSR in turns, so that a
    layer's weights are in the processor's cache only if they are there in use. If the network as a
    whole is not faster, it stays dense. So do convolutions, because masks do not make them faster
    (docs/deploy.md has measurements), layers with hooks, layers whose weight the network reads
    itself (as torch's transformers do), and layers that share a weight, of which CSR would make a
    second copy.

    Args:
        masks: the masks of `model`; None if its pruned weights are zero already, as after `slim`.
        example: a batch (N, ...) on the model's device, as large as in use; for a causal language
            model token numbers (N, 1), because it decodes one token of each text at a time. Each
            layer is timed on its input for this batch, and the result is checked on it.
        repeats: the number of timed calls of the network in each form.
        gain: as in `fastest`, for each layer.

    Raises:
        ValueError: the masks don't fit the model, `repeats` is below 1, or outputs on `example`
            differ by more than rounding does, for example because forward looks at the type of a
            layer.
    """
    if repeats < 1:
        raise ValueError(f"repeats {repeats} must be at least 1")
    plain = baked(model, masks)
    model = copy_of(plain)
    forms = _forms(model, example)
    times: list[list[list[float]]] = [[], []]  # dense and CSR; turns; layers
    for turn in range(_WARMUP + repeats):
        for place, seconds in enumerate(times):
            for form in forms:
                _put(model, form.names, form.layers[place])
            found = seconds_within(model, [form.layers[place] for form in forms], example)
            if turn >= _WARMUP:
                seconds.append(found)
    for number, form in enumerate(forms):
        dense, sparse = (statistics.median(turn[number] for turn in side) for side in times)
        _put(model, form.names, form.layers[int(dense >= gain * sparse)])
    check_equal(plain, model, example)
    if any(isinstance(module, CSRLinear) for module in model.modules()):
        dense, sparse = map(
            statistics.median, time_in_turns([plain, model], example, repeats=repeats)
        )
        if dense < min(gain, 1.0) * sparse:  # what each layer gains is lost between them
            return copy_of(plain)
    return model


@dataclass(frozen=True)
class _Forms:
    """A layer of a network by all its names, dense and in CSR."""

    names: list[str]
    layers: tuple[nn.Module, CSRLinear]


def _forms(model: nn.Module, example: Tensor) -> list[_Forms]:
    """Return the layers that the network calls and that can be replaced."""
    places: dict[nn.Module, list[str]] = {}
    owners: Counter[Tensor] = Counter()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, hf_conv1d()) or (type(module) is nn.Linear and name):
            places.setdefault(module, []).append(name)
    for module in model.modules():
        owners.update(module.parameters(recurse=False))
    free = [
        layer
        for layer in places
        if owners[cast(nn.Parameter, layer.weight)] == 1 and not beside_forward(layer)
    ]
    found = []
    for layer, seconds in zip(free, seconds_within(model, free, example), strict=True):
        if seconds == 0.0:
            continue  # it is not called
        names, sparse = places[layer], to_csr(_linear(layer))
        _put(model, names, sparse)
        try:
            model(example.clone())
            found.append(_Forms(names, (layer, sparse)))
        except (AttributeError, RuntimeError, TypeError):
            pass  # forward reads the layer's weight
        _put(model, names, layer)
    return found


@torch.no_grad()
def _linear(layer: nn.Module) -> nn.Linear:
    """Return `Conv1D` of transformers as a `nn.Linear`, which stays as it is."""
    if isinstance(layer, nn.Linear):
        return layer
    weight, bias = cast(nn.Parameter, layer.weight), cast(nn.Parameter, layer.bias)
    linear = nn.Linear(weight.shape[0], weight.shape[1], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight.T.contiguous()), nn.Parameter(bias.clone())
    return linear.train(layer.training)


def _put(model: nn.Module, names: list[str], layer: nn.Module) -> None:
    for name in names:
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, layer)
