"""Functions that move, cut and join the entries of values: permute, chunk, stack and the like."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustprune.bounds import affine
from robustprune.bounds.affine import Affine
from robustprune.bounds.joined import Concat
from robustprune.bounds.precision import EXACT
from robustprune.bounds.program import Program, Value
from robustprune.bounds.tensors import Unsupported


def reordered(p: Program, input: Value, order: Sequence[int]) -> Value:
    """Return the value with its dimensions in another order, the batch first."""
    order = [d % input.sample.dim() for d in order]
    if order[0] != 0:
        raise Unsupported("the batch dimension moves to another place; keep it first")
    if order == sorted(order):
        return input
    back = [order.index(d) for d in range(len(order))]

    def forward(z: Tensor) -> Tensor:
        return z.permute(order)

    return p.add(
        Affine(forward, forward, lambda A: A.permute(back), exact=True, mixing=False), input
    )


def permute(p: Program, input: Value, *dims: Any) -> Value:
    return reordered(p, input, dims[0] if len(dims) == 1 else dims)


def transpose(p: Program, input: Value, dim0: int, dim1: int) -> Value:
    order = list(range(input.sample.dim()))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return reordered(p, input, order)


def movedim(p: Program, input: Value, source: Any, destination: Any) -> Value:
    places = torch.arange(input.sample.dim()).expand(1, -1)
    marked = torch.empty(*range(1, input.sample.dim() + 1), device="meta")
    sizes = marked.movedim(source, destination).shape  # each dimension has its own size
    return reordered(p, input, [int(places[0, size - 1]) for size in sizes])


def narrow(p: Program, input: Value, dim: int, start: int, length: int) -> Value:
    """Return ``length`` entries from ``start`` on along a dimension."""
    dim = _dimension(dim, input.sample)
    size = input.sample.shape[dim]
    start = start + size if start < 0 else start
    if start == 0 and length == size:
        return input
    tail = input.sample.dim() - 1 - dim
    amounts = [0, 0] * tail + [start, size - start - length]

    def forward(z: Tensor) -> Tensor:
        return z.narrow(dim, start, length)

    return p.add(
        Affine(forward, forward, lambda A: F.pad(A, amounts), exact=True, mixing=False), input
    )


def select(p: Program, input: Value, dim: int, index: int) -> Value:
    """Return one position along a dimension, without that dimension."""
    dim = _dimension(dim, input.sample)
    one = narrow(p, input, dim, index % input.sample.shape[dim], 1)
    shape = list(one.sample.shape[1:])
    del shape[dim - 1]
    return reshaped_to(p, one, shape)


def reshaped_to(p: Program, input: Value, shape: Sequence[int]) -> Value:
    before = tuple(input.sample.shape[1:])
    after = tuple(shape)
    return input if before == after else p.add(affine.rearrange(before, after), input)


def split(p: Program, input: Value, split_size: Any, dim: int = 0) -> tuple[Value, ...]:
    dim = _dimension(dim, input.sample)
    size = input.sample.shape[dim]
    if isinstance(split_size, int):
        lengths = [min(split_size, size - at) for at in range(0, size, split_size)]
    else:
        lengths = list(split_size)
    starts = itertools.accumulate(lengths[:-1], initial=0)
    return tuple(narrow(p, input, dim, start, n) for start, n in zip(starts, lengths, strict=True))


def chunk(p: Program, input: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    dim = _dimension(dim, input.sample)
    return split(p, input, -(-input.sample.shape[dim] // chunks), dim)


def unbind(p: Program, input: Value, dim: int = 0) -> tuple[Value, ...]:
    dim = _dimension(dim, input.sample)
    return tuple(select(p, input, dim, i) for i in range(input.sample.shape[dim]))


def getitem(p: Program, input: Any, index: Any) -> Any:
    """Return an item of a tuple of values, or z[:, …] with numbers, slices and an ellipsis."""
    if not isinstance(input, Value):
        return operator.getitem(input, index)
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(not isinstance(i, int | slice | type(...)) for i in parts):
        raise Unsupported(f"the index {index}; only numbers, slices and '...' have bounds")
    dims = input.sample.dim()
    if ... in parts:
        at = parts.index(...)
        parts[at : at + 1] = [slice(None)] * (dims - len(parts) + 1)
    if not parts or parts[0] != slice(None):
        raise Unsupported(f"the index {index} takes some of the examples; begin it with ':'")
    dim = 1
    for part in parts[1:]:
        if isinstance(part, int):
            input = select(p, input, dim, part)
            continue
        begin, end, step = part.indices(input.sample.shape[dim])
        if step != 1:
            raise Unsupported(f"the index {index} with a step; only neighbours have bounds")
        input = narrow(p, input, dim, begin, max(end - begin, 0))
        dim += 1
    return input


def cat(p: Program, tensors: Sequence[Any], dim: int = 0) -> Value:
    """Return the concatenation; a constant, such as the class token of a vision transformer, has
    one row, or the same in each."""
    known = next(value for value in tensors if isinstance(value, Value))
    tensors = [t if isinstance(t, Value) else _constant(p, t, known) for t in tensors]
    if dim % tensors[0].sample.dim() == 0:
        raise Unsupported(f"a concatenation along dim={dim}, which joins examples")
    dim %= tensors[0].sample.dim()
    return p.add(Concat(tuple(value.sample.shape[dim] for value in tensors), dim), *tensors)


def _constant(p: Program, tensor: Tensor, known: Value) -> Value:
    """Return a constant (1, …), or (N, …) with equal rows, as a value: 0 · known + constant."""
    if tensor.dim() < 2 or not bool((tensor == tensor[:1]).all()):
        raise Unsupported("a concatenation with a constant that differs between examples")
    bias = p.cast(tensor[:1].to(known.sample.device))
    shapes = [tuple(known.sample.shape[1:]), tuple(bias.shape[1:])]

    def forward(z: Tensor) -> Tensor:
        return z.new_zeros(len(z), *shapes[1])

    def adjoint(A: Tensor) -> Tensor:
        return A.new_zeros(len(A), *shapes[0])

    return p.add(
        Affine(forward, forward, adjoint, bias, bias.abs(), arithmetic=EXACT, mixing=False), known
    )


def stack(p: Program, tensors: Sequence[Value], dim: int = 0) -> Value:
    if not all(isinstance(value, Value) for value in tensors):
        raise Unsupported("a stack with a constant")
    dim %= tensors[0].sample.dim() + 1
    if dim == 0:
        raise Unsupported("a stack along dim=0, which moves the batch dimension")
    shape = list(tensors[0].sample.shape[1:])
    shape.insert(dim - 1, 1)
    return cat(p, [reshaped_to(p, value, shape) for value in tensors], dim)


def attribute(p: Program, input: Value, name: str) -> Any:
    if name in ("shape", "ndim"):
        return getattr(input.sample, name)
    if name == "mT":
        return transpose(p, input, -2, -1)
    raise Unsupported(f"the attribute '{name}' of a value that depends on the input")


def _dimension(dim: int, like: Tensor) -> int:
    found = dim % like.dim()
    if found == 0:
        raise Unsupported(f"dim={dim} takes the batch apart; name another")
    return found


METHODS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("permute",), permute),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), transpose),
    **dict.fromkeys(("movedim", "moveaxis"), movedim),
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    "narrow": narrow,
    "select": select,
    "split": split,
    "chunk": chunk,
    "unbind": unbind,
    "getitem": getitem,
    "stack": stack,
    "getattr": attribute,
}
