"""Follow the channels through a network: which can only be removed together, which are constant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from robustprune.deploy.attention import AttentionHeads
from robustprune.deploy.calls import bind
from robustprune.deploy.network import Network, Ref, Step, resolve, tied_names
from robustprune.deploy.signals import Fates, Flow, Flows, Kind, Signal, leaks, weight_matrix
from robustprune.deploy.vocabulary import (
    ACTIVATIONS,
    ADAPTIVE_POOLS,
    ARITHMETIC,
    AVG_POOLS,
    CONVOLUTIONS,
    ELEMENTWISE,
    FUNCTIONS,
    MAX_POOLS,
    MOVES,
    NORMS,
    POOLS,
    TRANSPOSED,
    ZERO_PADS,
    tensor_names,
)


def follow(network: Network, example: Tensor) -> Flows:
    """Follow the channels through `network` in eval mode, step by step.

    Args:
        example: a batch (N, ...) for the network; only its shape is used.
    """
    with torch.no_grad():
        shapes = {name: tuple(v.shape) for name, v in network.all_values(example).items()}
    result = Flows([], Fates(), set())
    signals: dict[str, Signal | None] = {}
    calls: dict[str, int] = {}
    for step in network.steps:
        if step.kind == "module":
            calls[step.target] = calls.get(step.target, 0) + 1
    tied = tied_names(network)
    for step in network.steps:
        layer = network.layer(step)
        sources = {name: signals[name] for name in step.refs}
        shared = calls.get(step.target, 0) > 1 or _holds(layer, step.target, tied)
        kind, out = _follow_step(step, layer, sources, shapes, result.fates, shared=shared)
        if kind == "opaque":
            result.pinned.update(sources)
        signals[step.name] = out
        result.flows.append(Flow(step, kind, sources, out))
    return result


def _holds(layer: nn.Module | None, path: str, tied: Mapping[str, str]) -> bool:
    """Return whether a parameter of the layer belongs to another layer, too."""
    shared = {*tied, *tied.values()}
    return layer is not None and any(f"{path}.{name}" in shared for name in layer._parameters)


def _follow_step(
    step: Step,
    layer: nn.Module | None,
    sources: Mapping[str, Signal | None],
    shapes: Mapping[str, tuple[int, ...]],
    fates: Fates,
    *,
    shared: bool,
) -> tuple[Kind, Signal | None]:
    """Return the kind of a step, and the signal that comes out of it."""
    if isinstance(layer, (nn.Linear, AttentionHeads, *CONVOLUTIONS, *TRANSPOSED)):
        (name,) = step.refs
        last = isinstance(layer, (nn.Linear, AttentionHeads))
        axis = len(shapes[name]) - 1 if last else 1
        source = sources[name]
        aligned = source is None or source.axis == axis
        if not shared and aligned and isinstance(layer, AttentionHeads):
            return "heads", _heads(layer, source, axis, fates)
        if not shared and aligned and getattr(layer, "groups", 1) == 1:
            return "affine", _affine(layer, source, axis, fates)
        if not shared and source is not None and aligned and is_depthwise(layer):
            return "depthwise", _depthwise(layer, source)
        return "opaque", None
    if step.kind in ("input", "tensor"):
        return "each", None
    function = step.target if step.kind == "function" else ""
    signal, dims = next(iter(sources.values())), len(shapes[step.refs[0]])
    if any(source is None for source in sources.values()) or signal is None:
        return ("each", None) if len(step.refs) == 1 and step.kind != "output" else ("opaque", None)
    if isinstance(layer, NORMS):
        if signal.axis == 1 and layer.running_mean is not None and not shared:
            return "norm", _norm(layer, signal)
    elif (_elementwise(step, layer) or _number_arithmetic(step)) and len(step.refs) == 1:
        run = layer if layer is not None else FUNCTIONS[step.target]
        value = run(
            *(resolve(arg, {step.refs[0]: signal.value}) for arg in step.args), **step.kwargs
        )
        return "each", _with_constants(signal, signal.constant, value)
    elif _is_pool(step, layer) and signal.axis == 1 < dims - _pooled(step, layer):
        constant = (
            signal.constant
            if _keeps_constants(step, layer)
            else (signal.constant & (signal.value == 0))
        )
        return "each", _with_constants(signal, constant, signal.value)
    elif function == "mean" and _averages_after(step, signal.axis, dims):
        return "each", signal
    elif function in ARITHMETIC and len(step.refs) == 2:
        return _pair(step, sources, shapes, fates)
    elif function in MOVES:
        return "each", _moved(step, signal, dims)
    elif function == "cat":
        return _join(step, sources)
    elif isinstance(layer, nn.Flatten) or function == "flatten":
        return _flatten(step, layer, signal, shapes[step.refs[0]])
    return "opaque", None


def _with_constants(signal: Signal, constant: Tensor, value: Tensor) -> Signal:
    return Signal(signal.axis, signal.fates, constant & value.isfinite(), value)


def _affine(layer: nn.Module, source: Signal | None, axis: int, fates: Fates) -> Signal:
    constant, value = _constants(layer, source)
    return Signal(axis, fates.new(len(value)), constant, value)


def _heads(layer: AttentionHeads, source: Signal | None, axis: int, fates: Fates) -> Signal:
    """Follow attention: a head goes as a whole, and averages of constant values are constant."""
    constant, value = (part.chunk(3)[2] for part in _constants(layer, source))
    return Signal(axis, np.repeat(fates.new(layer.heads), layer.head_size), constant, value)


def _constants(layer: nn.Module, source: Signal | None) -> tuple[Tensor, Tensor]:
    """Return which outputs of a layer are constant, and the values of these."""
    weight = weight_matrix(layer)
    outs, ins, _ = weight.shape
    read = (weight != 0).any(2)
    if source is None:
        settled, value = torch.zeros(ins, dtype=torch.bool), torch.zeros(ins, dtype=torch.float64)
    else:
        settled = source.constant & ~(source.nonzero() & leaks(layer))
        value = source.value.where(settled, 0.0)
    bias = getattr(layer, tensor_names(layer)[1])
    offset = torch.zeros(outs, dtype=torch.float64)
    if isinstance(bias, Tensor):
        offset = bias.detach().to("cpu", torch.float64)
    constant = ~(read & ~settled).any(1)
    total = offset + weight.sum(2).where(settled, 0.0) @ value
    return constant & total.isfinite(), total


def is_depthwise(layer: nn.Module) -> bool:
    """Return whether each output of a convolution reads one input, its own."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups == layer.in_channels > 1


def _depthwise(layer: nn.Module, source: Signal) -> Signal:
    """Follow a convolution in which each channel has one filter of its own, or several."""
    weight = weight_matrix(layer)
    times = len(weight) // len(source.fates)
    settled = (source.constant & ~(source.nonzero() & leaks(layer))).repeat_interleave(times)
    value = source.value.repeat_interleave(times).where(settled, 0.0)
    bias = layer.bias
    offset = bias.detach().to("cpu", torch.float64) if isinstance(bias, Tensor) else 0.0
    total = offset + weight.sum((1, 2)) * value
    constant = settled | (weight == 0).all(2).all(1)
    fates = np.repeat(source.fates, times)
    return Signal(source.axis, fates, constant & total.isfinite(), total)


def _norm(layer: nn.Module, signal: Signal) -> Signal:
    def as_double(tensor: Tensor | None, default: float) -> Tensor:
        if tensor is None:
            return torch.full_like(signal.value, default)
        return tensor.detach().to("cpu", torch.float64)

    assert isinstance(layer, NORMS)
    scale, shift = as_double(layer.weight, 1.0), as_double(layer.bias, 0.0)
    mean, var = as_double(layer.running_mean, 0.0), as_double(layer.running_var, 1.0)
    centred = (signal.value - mean).where(signal.constant, 0.0)
    value = centred / (var + layer.eps).sqrt() * scale + shift
    return _with_constants(signal, signal.constant | (scale == 0), value)


def _elementwise(step: Step, layer: nn.Module | None) -> bool:
    return type(layer) in ACTIVATIONS or (step.kind == "function" and step.target in ELEMENTWISE)


def _number_arithmetic(step: Step) -> bool:
    plain = all(isinstance(arg, (Ref, int, float)) for arg in step.args) and not step.kwargs
    return step.kind == "function" and step.target in ARITHMETIC and plain


def _is_pool(step: Step, layer: nn.Module | None) -> bool:
    layers = (*MAX_POOLS, *AVG_POOLS, *ADAPTIVE_POOLS, *ZERO_PADS)
    return isinstance(layer, layers) or (step.kind == "function" and step.target in POOLS)


def _pooled(step: Step, layer: nn.Module | None) -> int:
    """Return how many last dimensions are pooled or padded; the name has it, as in "MaxPool2d"."""
    return int((step.target if layer is None else type(layer).__name__)[-2])


def _keeps_constants(step: Step, layer: nn.Module | None) -> bool:
    """Return whether pooling maps a constant channel to itself. (A channel of zeros always stays
    zero.)"""
    if layer is not None:
        if isinstance(layer, AVG_POOLS):
            padding = layer.padding
            return not any(padding if isinstance(padding, (tuple, list)) else (padding,))
        return not isinstance(layer, ZERO_PADS)
    if step.target.startswith("avg"):
        return len(step.args) <= 3 and set(step.kwargs) <= {"kernel_size", "stride"}
    return True


def _averages_after(step: Step, axis: int, ndim: int) -> bool:
    """Return whether torch.mean averages only over dimensions after the channels."""
    dims = step.kwargs.get("dim", step.args[1] if len(step.args) > 1 else None)
    if dims is None:
        return False
    return all(d % ndim > axis for d in (dims if isinstance(dims, (list, tuple)) else [dims]))


def _moved(step: Step, signal: Signal, ndim: int) -> Signal:
    """Follow the channels through a change of the order of dimensions."""
    given = bind(step.target, step.args, step.kwargs)
    order = list(range(ndim))
    if step.target == "permute":
        order = [dim % ndim for dim in given["dims"]]
    else:
        one, other = given["dim0"] % ndim, given["dim1"] % ndim
        order[one], order[other] = other, one
    return replace(signal, axis=order.index(signal.axis))


def _pair(
    step: Step,
    sources: Mapping[str, Signal | None],
    shapes: Mapping[str, tuple[int, ...]],
    fates: Fates,
) -> tuple[Kind, Signal | None]:
    """Follow the arithmetic of two tensors with equal channels; only positions may broadcast."""
    one, other = (sources[name] for name in step.refs)
    assert one is not None
    assert other is not None
    first, second = (shapes[name] for name in step.refs)
    same = len(first) == len(second) and one.axis == other.axis
    if not same or first[one.axis] != second[one.axis] or step.kwargs:
        return "opaque", None
    fates.unite(one.fates, other.fates)
    value = FUNCTIONS[step.target](one.value, other.value)
    constant = one.constant & other.constant
    if step.target == "mul":
        zero = (one.constant & (one.value == 0)) | (other.constant & (other.value == 0))
        constant, value = constant | zero, value.where(~zero, 0.0)
    return "pair", Signal(one.axis, one.fates, constant & value.isfinite(), value)


def _join(step: Step, sources: Mapping[str, Signal | None]) -> tuple[Kind, Signal | None]:
    parts = [part for name in step.refs if (part := sources[name]) is not None]
    dim = step.kwargs.get("dim", step.args[1] if len(step.args) > 1 else 0)
    if any(part.axis != dim for part in parts):
        return "opaque", None
    return "join", Signal(
        dim,
        np.concatenate([part.fates for part in parts]),
        torch.cat([part.constant for part in parts]),
        torch.cat([part.value for part in parts]),
    )


def _flatten(
    step: Step, layer: nn.Module | None, signal: Signal, shape: tuple[int, ...]
) -> tuple[Kind, Signal | None]:
    if isinstance(layer, nn.Flatten):
        start, end = layer.start_dim, layer.end_dim
    else:
        given = [*step.args[1:], *([None] * 2)]
        start = step.kwargs.get("start_dim", given[0] if given[0] is not None else 0)
        end = step.kwargs.get("end_dim", given[1] if given[1] is not None else -1)
    start, end = start % len(shape), end % len(shape)
    if start > signal.axis:
        return "each", signal
    if start < signal.axis:
        return "opaque", None
    repeats = int(np.prod(shape[start + 1 : end + 1]))
    return "flatten", Signal(
        signal.axis,
        np.repeat(signal.fates, repeats),
        signal.constant.repeat_interleave(repeats),
        signal.value.repeat_interleave(repeats),
    )
