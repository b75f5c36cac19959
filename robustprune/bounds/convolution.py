"""Convolutions with zero padding, for whole feature maps and for regions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from robustprune.bounds.affine import (
    Affine,
    Map,
    Region,
    Shape,
    cropped_bias,
    moved,
    whole_bias,
)
from robustprune.bounds.precision import Arithmetic

FORWARD = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def convolution(
    weight: Tensor,
    bias: Tensor | None,
    in_shape: Shape,
    out_shape: Shape,
    *,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    groups: int,
    arithmetic: Arithmetic | None = None,
) -> Affine:
    """Return a convolution in 1-D, 2-D or 3-D as an affine operation."""
    forward, backward = FORWARD[len(stride)], TRANSPOSED[len(stride)]
    # positions at the far end that the stride skips are not read by the kernel
    left_over = tuple(
        size - (hi - lo - 2 * p)
        for size, p, (lo, hi) in zip(
            in_shape[1:],
            padding,
            field_of(tuple((0, n) for n in out_shape[1:]), weight, stride, padding, dilation),
            strict=True,
        )
    )

    def convolve(z: Tensor, kernel: Tensor) -> Tensor:
        return forward(z, kernel, None, stride, padding, dilation, groups)

    def crop(region: Region) -> tuple[Affine, Region]:
        def adjoint(A: Tensor) -> Tensor:
            if groups > 1:
                return backward(A, weight, None, stride, 0, 0, groups, dilation)
            return transposed(A, weight, stride, dilation)

        field = field_of(region, weight, stride, padding, dilation)
        own = rows if groups == 1 and all(d == 1 for d in dilation) else None
        return replace(cropped_bias(op, region), adjoint=adjoint, rows=own), field

    def image(region: Region) -> tuple[Map, Map, Region]:
        target = _reached(region, out_shape, weight, stride, padding, dilation)
        field = field_of(target, weight, stride, padding, dilation)

        def part(kernel: Tensor) -> Map:
            return lambda z: forward(
                moved(z, region, field), kernel, None, stride, 0, dilation, groups
            )

        return part(weight), part(weight.abs()), target

    def rows(index: Tensor) -> Tensor:
        # channels last in memory, as ``transposed`` returns them
        return weight.movedim(1, -1)[index].contiguous().movedim(-1, index.dim())

    def scaled(factor: Tensor, shift: Tensor) -> Affine:
        kernel = weight * factor.reshape(-1, *(1,) * (weight.dim() - 1))
        return convolution(
            kernel,
            shift if bias is None else bias * factor + shift,
            in_shape,
            out_shape,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )

    op = Affine(
        lambda z: convolve(z, weight),
        lambda z: convolve(z, weight.abs()),
        lambda A: backward(A, weight, None, stride, padding, left_over, groups, dilation),
        *whole_bias(None if bias is None else bias.reshape(-1, *(1,) * len(stride)), out_shape),
        arithmetic=arithmetic,
        crop=crop,
        image=image,
        scaled=scaled,
    )
    return op


def field_of(
    region: Region, weight: Tensor, stride: Shape, padding: Shape, dilation: Shape
) -> Region:
    """Return the input positions that outputs in a region depend on, counted without padding."""
    return tuple(
        (lo * s - p, (hi - 1) * s - p + d * (kernel - 1) + 1)
        for (lo, hi), kernel, s, p, d in zip(
            region, weight.shape[2:], stride, padding, dilation, strict=True
        )
    )


def _reached(
    region: Region,
    out_shape: Shape,
    weight: Tensor,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
) -> Region:
    """Return the outputs, at least one, that depend on input positions in a region."""
    found = []
    for (lo, hi), n, k, s, p, d in zip(
        region, out_shape[1:], weight.shape[2:], stride, padding, dilation, strict=True
    ):
        first = min(max(-((d * (k - 1) - lo - p) // s), 0), n - 1)
        found.append((first, max(min((hi - 1 + p) // s + 1, n), first + 1)))
    return tuple(found)


def transposed(A: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Compute the transposed convolution of small maps, (M, out, …) -> (M, in, …).

    For each position of the result, and each line of positions of A on which it depends, it makes
    one matrix product over all of the M maps. torch loops over the maps with a product for each,
    which is several times slower for small maps. A and the result have their channels last in
    memory.
    """
    sizes = [
        (n - 1) * s + d * (k - 1) + 1
        for n, k, s, d in zip(A.shape[2:], weight.shape[2:], stride, dilation, strict=True)
    ]
    rows = A.movedim(1, -1).contiguous()
    backwards = weight.flip(-1).movedim((0, 1), (-2, -1)).contiguous()  # (…, taps, out, in)
    total = A.new_zeros(len(A), *sizes, weight.shape[1])
    ends = _ends(A.shape[-1], weight.shape[-1], stride[-1], dilation[-1])
    step, skip = (n // math.gcd(stride[-1], dilation[-1]) for n in (dilation[-1], stride[-1]))
    for place in product(*(range(n) for n in A.shape[2:-1])):
        source: Any = (slice(None), *place)
        line = rows[source]
        for tap in product(*(range(k) for k in weight.shape[2:-1])):
            moves = zip(place, tap, stride[:-1], dilation[:-1], strict=True)
            target: Any = (slice(None), *(i * s + t * d for i, t, s, d in moves))
            out = total[target]
            kernel = backwards[tap]
            for j, (first, last, early, late) in ends.items():
                part = line[:, first : last + 1 : step].flatten(1)
                out[:, j].addmm_(part, kernel[early : late + 1 : skip].flatten(0, 1))
    return total.movedim(-1, 1)


@cache
def _ends(count: int, taps: int, stride: int, dilation: int) -> dict[int, tuple[int, ...]]:
    """Return for each position j of a transposed convolution's line what is added up there.

    These are the first and the last of the positions i, and of the taps t in reversed order, with
    j = i · stride + t · dilation.
    """
    found: dict[int, tuple[int, ...]] = {}
    for i, t in product(range(count), range(taps)):
        j, back = i * stride + t * dilation, taps - 1 - t
        first, last, early, late = found.get(j, (i, i, back, back))
        found[j] = min(first, i), max(last, i), min(early, back), max(late, back)
    return found


def transposed_convolution(
    weight: Tensor,
    bias: Tensor | None,
    in_shape: Shape,
    out_shape: Shape,
    *,
    stride: Shape,
    padding: Shape,
    output_padding: Shape,
    dilation: Shape,
    groups: int,
    arithmetic: Arithmetic | None = None,
) -> Affine:
    """Return a transposed convolution in 1-D, 2-D or 3-D as an affine operation."""
    dims = len(stride)
    forward, backward = TRANSPOSED[dims], FORWARD[dims]
    places = (slice(None), slice(None), *(slice(n) for n in in_shape[1:]))

    def spread(z: Tensor, kernel: Tensor) -> Tensor:
        return forward(z, kernel, None, stride, padding, output_padding, groups, dilation)

    def adjoint(A: Tensor) -> Tensor:
        # a long output padding leaves room for more positions than the input has
        return backward(A, weight, None, stride, padding, dilation, groups)[places]

    return Affine(
        lambda z: spread(z, weight),
        lambda z: spread(z, weight.abs()),
        adjoint,
        *whole_bias(None if bias is None else bias.reshape(-1, *(1,) * dims), out_shape),
        arithmetic=arithmetic,
    )
