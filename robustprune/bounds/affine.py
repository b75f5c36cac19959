"""Affine operations: how they move points, intervals and coefficients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustprune.bounds.algebra import Interval, dot

Shape = tuple[int, ...]
Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Affine:
    """z ↦ W z + b on one input.

    Attributes:
        linear, absolute: z ↦ W z and z ↦ |W| z on batches (M, *in).
        adjoint: A ↦ A W, (M, *out) -> (M, *in).
        bias, bias_size: b and a bound of |b| before any cancellation inside it, (1, *out).
        exact: True where W only moves entries around, so that nothing is rounded.
    """

    linear: Map
    absolute: Map
    adjoint: Map
    bias: Tensor | None = None
    bias_size: Tensor | None = None
    exact: bool = False

    def clean(self, z: Tensor) -> Tensor:
        out = self.linear(z)
        return out if self.bias is None else out + self.bias

    def interval(self, *inputs: Interval, gamma: float) -> Interval:
        """W c + b ± |W| r (arXiv 1810.12715, Eq. 6), with the forward correction."""
        (box,) = inputs
        if self.exact:
            return Interval(self.linear(box.lo), self.linear(box.hi))
        middle, radius = box.middle_and_radius()
        if gamma:
            radius = radius + gamma * (middle.abs() + radius)
        middle, radius = self.clean(middle), self.absolute(radius)
        if gamma and self.bias_size is not None:
            radius = radius + gamma * self.bias_size
        return Interval(middle - radius, middle + radius)

    def size(self, *inputs: Tensor) -> Tensor | None:
        if self.exact:
            return None
        size = self.absolute(inputs[0])
        return size if self.bias_size is None else size + self.bias_size

    def backward(self, A: Tensor) -> tuple[list[Tensor], Tensor | None]:
        moved = self.adjoint(A.flatten(0, 1))
        const = None if self.bias is None else dot(A, self.bias)
        return [moved.reshape(*A.shape[:2], *moved.shape[1:])], const


@dataclass(frozen=True)
class Sum:
    """Σ ±z_i over inputs of one shape."""

    signs: tuple[int, ...]

    def clean(self, *zs: Tensor) -> Tensor:
        return sum((s * z for s, z in zip(self.signs, zs, strict=True)), start=zs[0].new_zeros(()))

    def interval(self, *inputs: Interval, gamma: float) -> Interval:
        pairs = list(zip(self.signs, inputs, strict=True))
        lo = self.clean(*(i.lo if s > 0 else i.hi for s, i in pairs))
        hi = self.clean(*(i.hi if s > 0 else i.lo for s, i in pairs))
        if not gamma:
            return Interval(lo, hi)
        slack = gamma * sum((i.size for i in inputs), start=lo.new_zeros(()))
        return Interval(lo - slack, hi + slack)

    def size(self, *inputs: Tensor) -> None:
        return None  # copies of A are exact

    def backward(self, A: Tensor) -> tuple[list[Tensor], None]:
        return [A if sign > 0 else -A for sign in self.signs], None


@dataclass(frozen=True)
class Concat:
    """Concatenation along ``dim`` (counted with the batch as 0)."""

    dim: int
    lengths: tuple[int, ...]

    def clean(self, *zs: Tensor) -> Tensor:
        return torch.cat(zs, self.dim)

    def interval(self, *inputs: Interval, gamma: float) -> Interval:
        return Interval(self.clean(*(i.lo for i in inputs)), self.clean(*(i.hi for i in inputs)))

    def size(self, *inputs: Tensor) -> None:
        return None

    def backward(self, A: Tensor) -> tuple[list[Tensor], None]:
        return list(torch.split_with_sizes(A, self.lengths, self.dim + 1)), None


def linear(weight: Tensor, bias: Tensor | None, out_shape: Shape) -> Affine:
    """z Wᵀ + b on the last dimension."""
    return Affine(
        lambda z: F.linear(z, weight),
        lambda z: F.linear(z, weight.abs()),
        lambda A: A @ weight,
        *_bias(bias, out_shape),
    )


def convolution(
    weight: Tensor,
    bias: Tensor | None,
    in_shape: Shape,
    out_shape: Shape,
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Affine:
    """1-D or 2-D convolution with zeros as padding."""
    one = weight.dim() == 3
    forward = F.conv1d if one else F.conv2d
    backward = F.conv_transpose1d if one else F.conv_transpose2d
    # what the stride leaves over at the far end never meets the kernel
    left_over = tuple(
        size - ((after - 1) * s - 2 * p + d * (kernel - 1) + 1)
        for size, after, s, p, d, kernel in zip(
            in_shape[1:], out_shape[1:], stride, padding, dilation, weight.shape[2:], strict=True
        )
    )

    def convolve(z: Tensor, kernel: Tensor) -> Tensor:
        return forward(z, kernel, None, stride, padding, dilation, groups)

    return Affine(
        lambda z: convolve(z, weight),
        lambda z: convolve(z, weight.abs()),
        lambda A: backward(A, weight, None, stride, padding, left_over, groups, dilation),
        *_bias(None if bias is None else bias.reshape(-1, *(1,) * len(stride)), out_shape),
    )


def scale(
    factor: Tensor, shift: Tensor | None, shape: Shape, *, shift_size: Tensor | None = None
) -> Affine:
    """factor ⊙ z + shift, both broadcasting against one example."""
    return Affine(
        lambda z: z * factor,
        lambda z: z * factor.abs(),
        lambda A: A * factor,
        *_bias(shift, shape, size=shift_size),
    )


def average(function: Map, in_shape: Shape) -> Affine:
    """A linear map with coefficients ≥ 0 and no parameters: means, sums, padding.

    The adjoint is autograd's gradient of the map, which does not depend on where it is taken.
    """

    def adjoint(A: Tensor) -> Tensor:
        with torch.enable_grad():
            z = A.new_zeros(len(A), *in_shape).requires_grad_()
            out = function(z)
        (moved,) = torch.autograd.grad(out, z, A, create_graph=A.requires_grad)
        return moved

    return Affine(linear=function, absolute=function, adjoint=adjoint)


def rearrange(in_shape: Shape, out_shape: Shape) -> Affine:
    """Another shape for the same entries in the same order."""

    def forward(z: Tensor) -> Tensor:
        return z.reshape(len(z), *out_shape)

    return Affine(forward, forward, lambda A: A.reshape(len(A), *in_shape), exact=True)


def _bias(
    bias: Tensor | None, shape: Sequence[int], *, size: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """The last two fields of ``Affine``, for one example."""
    if bias is None:
        return None, None
    size = bias.abs() if size is None else size
    return bias.expand(1, *shape), size.expand(1, *shape)
