"""Convolutions with zero padding, for whole feature maps and for regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from torch import Tensor
from torch.nn import functional as F

from robustprune.bounds.affine import Affine, Region, Shape, cropped_bias, whole_bias
from robustprune.bounds.precision import Arithmetic


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
    """Return a 1-D or 2-D convolution as an affine operation."""
    one = weight.dim() == 3
    forward = F.conv1d if one else F.conv2d
    backward = F.conv_transpose1d if one else F.conv_transpose2d
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

        own = replace(cropped_bias(op, region), adjoint=adjoint)
        return own, field_of(region, weight, stride, padding, dilation)

    op = Affine(
        lambda z: convolve(z, weight),
        lambda z: convolve(z, weight.abs()),
        lambda A: backward(A, weight, None, stride, padding, left_over, groups, dilation),
        *whole_bias(None if bias is None else bias.reshape(-1, *(1,) * len(stride)), out_shape),
        arithmetic=arithmetic,
        crop=crop,
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


def transposed(A: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Compute the transposed convolution of small maps, (M, out, …) -> (M, in, …).

    It makes one matrix product over all of the M maps, and then one shifted sum for each tap. torch
    loops over the maps with a product for each, which is several times slower for small maps.
    """
    places, taps = A.shape[2:], weight.shape[2:]
    rows = A.flatten(2).transpose(1, 2).reshape(-1, A.shape[1])
    parts = (rows @ weight.flatten(1)).reshape(len(A), *places, weight.shape[1], *taps)
    sizes = [
        (n - 1) * s + d * (k - 1) + 1
        for n, k, s, d in zip(places, taps, stride, dilation, strict=True)
    ]
    total = A.new_zeros(len(A), *sizes, weight.shape[1])
    for tap in product(*(range(k) for k in taps)):
        under, part = total, parts
        for dim, (t, n, s, d) in enumerate(zip(tap, places, stride, dilation, strict=True), 1):
            under = under[(slice(None),) * dim + (slice(t * d, t * d + (n - 1) * s + 1, s),)]
        for t in reversed(tap):
            part = part[..., t]
        under += part
    return total.movedim(-1, 1)
