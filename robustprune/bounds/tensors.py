"""Functions on whole tensors as operations of a ``Program``: arithmetic, means, shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustprune.bounds import affine
from robustprune.bounds.formulas import square
from robustprune.bounds.joined import Sum
from robustprune.bounds.precision import EXACT, Arithmetic, Precision, constants, mean_of
from robustprune.bounds.products import ENTRYWISE, Product
from robustprune.bounds.program import Program, Value


class Unsupported(ValueError):
    """A known operation is used in a way that has no bounds. The message says which and what to
    do."""


def scaled(p: Program, input: Value, factor: Any, shift: Any, *, roundings: int = 2) -> Value:
    """Return factor ⊙ z + shift for constants that broadcast against one example; None is 1 or 0.

    roundings: the number of roundings of one result in the network, with those of its constants.
    """
    like = input.sample
    factor = like.new_ones(()) if factor is None else constant_like(p, factor, like)
    shift = None if shift is None else constant_like(p, shift, like)
    how = constants(roundings, factor, shift, p.precision) if p.precision else None
    return p.add(affine.scale(factor, shift, tuple(like.shape[1:]), arithmetic=how), input)


def add(p: Program, input: Any, other: Any, *, alpha: int = 1) -> Value:
    return _plus(p, input, other, alpha, 1)


def sub(p: Program, input: Any, other: Any, *, alpha: int = 1) -> Value:
    return _plus(p, input, other, alpha, -1)


def _plus(p: Program, input: Any, other: Any, alpha: int, sign: int) -> Value:
    if alpha != 1:
        raise Unsupported(f"alpha={alpha}; multiply first")
    if isinstance(input, Value) and isinstance(other, Value):
        if input.sample.shape != other.sample.shape:
            raise Unsupported(
                f"shapes {tuple(input.sample.shape[1:])} and {tuple(other.sample.shape[1:])} "
                "differ; bring both to one shape"
            )
        return p.add(Sum((1, sign)), input, other)
    if isinstance(input, Value):
        return scaled(p, input, None, other if sign > 0 else -1 * other)
    return scaled(p, other, sign, input)


def mul(p: Program, input: Any, other: Any) -> Value:
    if isinstance(input, Value) and isinstance(other, Value):
        if input.node == other.node:
            return p.add(square(), input)
        if input.sample.shape != other.sample.shape:
            raise Unsupported(
                f"a product of values of shapes {tuple(input.sample.shape[1:])} and "
                f"{tuple(other.sample.shape[1:])}; bring both to one shape"
            )
        return p.add(Product(ENTRYWISE), input, other)
    value, factor = (input, other) if isinstance(input, Value) else (other, input)
    return scaled(p, value, factor, None)


def div(p: Program, input: Any, other: Any) -> Value:
    if isinstance(other, Value):
        raise Unsupported("a division by a value that depends on the input")
    inverse = 1 / torch.as_tensor(other, dtype=p.dtype, device=input.sample.device)
    # some kernels multiply by the rounded inverse
    return scaled(p, input, inverse, None, roundings=3)


def power(p: Program, input: Any, exponent: Any) -> Value:
    if not isinstance(input, Value) or isinstance(exponent, Tensor | Value) or exponent != 2:
        raise Unsupported("a power other than the square of a value")
    return p.add(square(), input)


def neg(p: Program, input: Value) -> Value:
    return scaled(p, input, -1, None, roundings=0)


def averaged(
    p: Program, input: Value, function: Callable[[Tensor], Tensor], how: Arithmetic
) -> Value:
    if bool((function(torch.ones_like(input.sample[:1])) < 0).any()):
        raise Unsupported("an average with a negative divisor")
    return p.add(affine.average(function, tuple(input.sample.shape[1:]), how), input)


def pooled(name: str) -> Callable[..., Value]:
    """Return the average pooling function of that name."""

    def pool(p: Program, input: Value, *args: Any, **kwargs: Any) -> Value:
        window = args[0] if args else kwargs["output_size" if adaptive else "kernel_size"]
        places = input.sample.shape[2:]
        sizes = each(window, len(places))
        if adaptive:
            sizes = tuple(
                1 if after is None else -(-before // after) + (before % after > 0)
                for before, after in zip(places, sizes, strict=True)
            )
        how = mean_of(math.prod(sizes))
        return averaged(p, input, lambda z: getattr(F, name)(z, *args, **kwargs), how)

    adaptive = name.startswith("adaptive")
    return pool


def sizes(p: Program, input: Value, dim: int | None = None) -> Any:
    """Return the shape of the sample; reshapes check that the batch dimension does not change."""
    return input.sample.shape if dim is None else input.sample.shape[dim]


def mean(p: Program, input: Value, dim: Any = None, keepdim: bool = False) -> Value:
    dims = dims_of(dim, input.sample)
    how = mean_of(math.prod(input.sample.shape[d] for d in dims))
    return averaged(p, input, lambda z: z.mean(dims, keepdim=keepdim), how)


def total(p: Program, input: Value, dim: Any = None, keepdim: bool = False) -> Value:
    dims = dims_of(dim, input.sample)
    how = mean_of(math.prod(input.sample.shape[d] for d in dims))
    return averaged(p, input, lambda z: z.sum(dims, keepdim=keepdim), how)


def pad(
    p: Program, input: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Value:
    if value:
        raise Unsupported(f"padding with {value}; only with zeros, or reflected and the like")
    amounts, dims = list(pad), input.sample.dim() - 2
    if len(amounts) > 2 * dims:
        raise Unsupported(f"padding {tuple(pad)} reaches the channels or the batch")
    if mode != "constant":
        return averaged(p, input, lambda z: F.pad(z, amounts, mode), EXACT)
    amounts += [0] * (2 * dims - len(amounts))
    before, after = amounts[-2::-2], amounts[-1::-2]
    return p.add(affine.zero_pad(before, after), input)


def reshaped(name: str) -> Callable[..., Value]:
    """Return the tensor method of that name; it must keep the entries' order and the examples."""

    def reshape(p: Program, input: Value, *args: Any, **kwargs: Any) -> Value:
        if any(isinstance(arg, torch.dtype) for arg in (*args, *kwargs.values())):
            raise Unsupported("the bits of a value read as another type")
        before = tuple(input.sample.shape[1:])
        out = getattr(input.sample, name)(*args, **kwargs)
        if out.dim() < 1 or len(out) != len(input.sample):
            raise Unsupported(
                f"a change from shape (N, {', '.join(map(str, before))}) that mixes examples; "
                "keep the batch dimension as it is"
            )
        after = tuple(out.shape[1:])
        return input if after == before else p.add(affine.rearrange(before, after), input)

    return reshape


def identity(p: Program, input: Value, *args: Any, **kwargs: Any) -> Value:
    return input


def as_float32(p: Program, input: Value) -> Value:
    """Return the input, because a cast to float32 loses nothing at this precision or a lower."""
    if p.precision is not None and p.precision.unit < Precision.of(torch.float32).unit:
        raise Unsupported("a cast to float32 inside a float64 network; leave it out")
    return input


def dropout(program: Program, input: Value, p: float = 0.5, training: bool = True) -> Value:
    if training:
        raise Unsupported("dropout that stays on in eval mode; pass training=self.training")
    return input


def each(value: Any, dims: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * dims
    return values * dims if len(values) == 1 else values


def dims_of(dim: Any, like: Tensor) -> tuple[int, ...]:
    dims = () if dim is None else tuple(dim) if isinstance(dim, Sequence) else (dim,)
    found = tuple(d % like.dim() for d in dims)
    if not found or 0 in found:
        raise Unsupported(f"dim={dim} takes in the batch dimension; name the others")
    return found


def constant_like(p: Program, value: Any, like: Tensor) -> Tensor:
    """Return a constant that broadcasts against one example without widening it."""
    if not isinstance(value, Tensor):  # torch would round a number to float32
        value = torch.as_tensor(value, dtype=p.dtype)
    tensor: Tensor = p.cast(value.to(like.device))
    if tensor.dim() == like.dim() and len(tensor) == 1:
        tensor = tensor[0]
    shape = tuple(like.shape[1:])
    sizes = zip(reversed(tensor.shape), reversed(shape), strict=False)
    if tensor.dim() > len(shape) or any(own not in (1, wanted) for own, wanted in sizes):
        raise Unsupported(
            f"a constant of shape {tuple(tensor.shape)} beside examples of shape {shape}; it must "
            "broadcast against one example"
        )
    return tensor
