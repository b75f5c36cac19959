"""Layers with weights, nonlinearities and pooling, as operations of a ``Program``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.bounds import affine
from robustprune.bounds.activations import Rectifier, Sigmoidal
from robustprune.bounds.convolution import (
    FORWARD,
    TRANSPOSED,
    convolution,
    transposed_convolution,
)
from robustprune.bounds.pooling import MaxPool, Windows
from robustprune.bounds.precision import Arithmetic, sum_of_products
from robustprune.bounds.products import Product, matrix
from robustprune.bounds.program import Program, Value
from robustprune.bounds.tensors import Unsupported, each, pad, pooled


def linear(p: Program, input: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
    weight = p.cast(weight)
    shape = (*input.sample.shape[1:-1], len(weight))
    how = sum_of_products(weight, bias) if p.precision else None
    return p.add(affine.linear(weight, p.cast(bias), shape, how), input)


def matmul(p: Program, input: Any, other: Any) -> Value:
    if isinstance(input, Value) and isinstance(other, Value):
        return product_of_matrices(p, input, other)
    if not (isinstance(input, Value) and isinstance(other, Tensor) and other.dim() == 2):
        raise Unsupported("a matrix product needs the input on the left, a constant matrix right")
    return linear(p, input, other.T)


def product_of_matrices(p: Program, input: Value, other: Value) -> Value:
    """Return the product of values (N, …, L, D) and (N, …, D, M)."""
    left, right = input.sample.shape, other.sample.shape
    if len(left) != len(right) or len(left) < 3 or left[:-2] != right[:-2]:
        raise Unsupported(
            f"a matrix product of values of shapes {tuple(left[1:])} and {tuple(right[1:])}; "
            "bring both to matrices with the same leading dimensions"
        )
    return p.add(Product(matrix(left[-1])), input, other)


def conv(
    p: Program,
    input: Value,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Value:
    weight, dims = p.cast(weight), weight.dim() - 2
    steps, dilations = each(stride, dims), each(dilation, dims)
    if padding == "same":
        around = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
        amounts = [n for total in reversed(around) for n in (total // 2, total - total // 2)]
        input, padding = pad(p, input, amounts), 0
    sides = each(0 if padding == "valid" else padding, dims)
    bare = FORWARD[dims](input.sample[:1], weight, None, steps, sides, dilations, groups)
    return p.add(
        convolution(
            weight,
            p.cast(bias),
            tuple(input.sample.shape[1:]),
            tuple(bare.shape[1:]),
            stride=steps,
            padding=sides,
            dilation=dilations,
            groups=groups,
            arithmetic=sum_of_products(weight, bias) if p.precision else None,
        ),
        input,
    )


def conv_layer(p: Program, layer: Any, input: Value) -> Value:
    padding = layer.padding
    if layer.padding_mode != "zeros":
        amounts = list(layer._reversed_padding_repeated_twice)
        input, padding = pad(p, input, amounts, layer.padding_mode), 0
    return conv(
        p, input, layer.weight, layer.bias, layer.stride, padding, layer.dilation, layer.groups
    )


def conv_transpose(
    p: Program,
    input: Value,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Value:
    weight, dims = p.cast(weight), weight.dim() - 2
    steps, sides, extra, dilations = (
        each(value, dims) for value in (stride, padding, output_padding, dilation)
    )
    function: Any = TRANSPOSED[dims]
    bare = function(input.sample[:1], weight, None, steps, sides, extra, groups, dilations)
    # one row for each channel of the result: (in, out / groups, …) -> (out, in / groups, …)
    parted = weight.reshape(groups, -1, *weight.shape[1:])
    rows = parted.transpose(1, 2).flatten(0, 1)
    op = transposed_convolution(
        weight,
        p.cast(bias),
        tuple(input.sample.shape[1:]),
        tuple(bare.shape[1:]),
        stride=steps,
        padding=sides,
        output_padding=extra,
        dilation=dilations,
        groups=groups,
        arithmetic=sum_of_products(rows, bias) if p.precision else None,
    )
    return p.add(op, input)


def conv_transpose_layer(
    p: Program, layer: Any, input: Value, output_size: Sequence[int] | None = None
) -> Value:
    if output_size is not None:
        raise Unsupported("output_size; give output_padding to the layer")
    return conv_transpose(
        p,
        input,
        layer.weight,
        layer.bias,
        layer.stride,
        layer.padding,
        layer.output_padding,
        layer.groups,
        layer.dilation,
    )


def batch_norm(p: Program, layer: Any, input: Value) -> Value:
    """Compute (z − μ)/√(σ² + ε) · w + b; in train mode μ, σ² are the sample's, else running."""
    if p.batch_statistics and layer.training:
        over = [dim for dim in range(input.sample.dim()) if dim != 1]
        mean = input.sample.mean(over)
        var = input.sample.var(over, correction=0)
    elif layer.running_mean is None:
        raise Unsupported(
            "a batch norm without running statistics makes examples depend on each "
            "other; use track_running_stats=True"
        )
    else:
        mean, var = p.cast(layer.running_mean), p.cast(layer.running_var)
    factor = (var + layer.eps).rsqrt()
    if layer.affine:
        factor = factor * p.cast(layer.weight)
    offset, bias = -mean * factor, p.cast(layer.bias)
    size = offset.abs() if bias is None else offset.abs() + bias.abs()
    shift = offset if bias is None else offset + bias
    ones = (1,) * (input.sample.dim() - 2)
    shape = tuple(input.sample.shape[1:])
    factor, shift, size = (t.reshape(-1, *ones) for t in (factor, shift, size))
    how = _normalising(p, layer, mean, var) if p.precision else None
    return p.add(affine.scale(factor, shift, shape, arithmetic=how, shift_size=size), input)


def _normalising(p: Program, layer: Any, mean: Tensor, var: Tensor) -> Arithmetic:
    """Bound the errors of (z − μ) · 1/√(σ² + ε) · w + b, or of z · scale + shift computed from it.

    A product has fewer than 16 roundings, among them an inverse root with an error of two units in
    the last place. The error of the root grows where σ² + ε cancels or is near the smallest number.
    """
    assert p.precision is not None
    total = var + layer.eps
    worst = (var.abs() + layer.eps + 4 * p.precision.reach) / total
    ones = mean.new_ones(())
    weight, bias = (p.cast(layer.weight), p.cast(layer.bias)) if layer.affine else (ones, 0 * ones)
    between = (1 + total.rsqrt()) * (1 + weight.abs()) * (1 + mean.abs()) + bias.abs()
    usable = bool((total > 0).all()) and float(total.max()) < p.precision.largest
    peak = 2 * float(between.max())
    terms = 16 * float(worst.max()) if usable else math.inf
    return Arithmetic(terms, 16 * peak, peak)


def relu(p: Program, input: Value, inplace: bool = False) -> Value:
    return p.add(Rectifier(), input)


def leaky_relu(
    p: Program, input: Value, negative_slope: float = 0.01, inplace: bool = False
) -> Value:
    if not 0 <= negative_slope <= 1:
        raise Unsupported(f"a leaky ReLU of slope {negative_slope}; it must lie in [0, 1]")
    return p.add(Rectifier(float(negative_slope)), input)


def tanh(p: Program, input: Value) -> Value:
    return p.add(Sigmoidal(), input)


def sigmoid(p: Program, input: Value) -> Value:
    return p.add(Sigmoidal(sigmoid=True), input)


def max_pool(
    p: Program,
    input: Value,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    if return_indices:
        raise Unsupported("return_indices=True")
    before = tuple(input.sample.shape[1:])
    dims = len(before) - 1
    kernel = each(kernel_size, dims)
    steps = kernel if stride is None or stride == [] else each(stride, dims)
    sides, dilations = each(padding, dims), each(dilation, dims)
    function = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[dims]
    out = function(input.sample[:1], kernel, steps, sides, dilations, ceil_mode)
    windows = Windows(kernel, steps, sides, dilations)
    return p.add(MaxPool(windows, before, tuple(out.shape[1:]), input.sample.device), input)


def avg_pool_layer(p: Program, m: Any, input: Value) -> Value:
    options = [m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad]
    if not isinstance(m, nn.AvgPool1d):
        options.append(m.divisor_override)
    return pooled(f"avg_pool{input.sample.dim() - 2}d")(p, input, *options)


def max_pool_layer(p: Program, m: Any, input: Value) -> Value:
    return max_pool(
        p, input, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
    )
