"""Affine operations: how they map points, intervals and coefficients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from robustprune.bounds.algebra import Interval, dot
from robustprune.bounds.precision import LONG, Arithmetic, Precision
from robustprune.bounds.rounding import TINY

Shape = tuple[int, ...]
#: relative error of a float64 sum of fewer than VERY_LONG products
ROUNDED, VERY_LONG = 2.0**-30, 2**22
Map = Callable[[Tensor], Tensor]
#: first and last position (the last is not included) along each dimension after the channels
Region = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Affine:
    """The map z ↦ W z + b on one input.

    Attributes:
        linear, absolute: the maps z ↦ W z and z ↦ |W| z on batches (M, *in).
        adjoint: the map A ↦ A W, (M, *out) -> (M, *in).
        bias, bias_size: b, and an upper bound of |b| before any cancellation inside it, (1, *out).
        exact: whether W only moves entries, so that nothing is rounded.
        arithmetic: how the network may evaluate the map; not needed if ``exact`` or in training.
        mixing: whether an output may depend on more than one input.
        crop: a function that returns the same map for the outputs of a region, and the region of
            inputs that these depend on, which may extend beyond the input; None where W is not
            local. Only ``backward`` of the result may be used.
        image: a function for inputs that are 0 outside a region. It returns the maps ``linear`` and
            ``absolute`` of what is inside, and the region of the results outside of which they are
            0; None where W is not local.
        rows: a function that returns the rows of W for some outputs, by their numbers or, in the
            crop of a single position, by their channels: (…,) -> (…, *in); None where they are not
            at hand.
        channels: of a map that multiplies each channel by a number and adds another, these
            factors and shifts, each (C,) or (1,); else None.
        scaled: a function that returns the map z ↦ f ⊙ (W z + b) + g, with an f and a g for each
            channel, without ``arithmetic``; None where it needs more work than the map itself.
    """

    linear: Map
    absolute: Map
    adjoint: Map
    bias: Tensor | None = None
    bias_size: Tensor | None = None
    exact: bool = False
    arithmetic: Arithmetic | None = None
    mixing: bool = True
    crop: Callable[[Region], tuple[Affine, Region]] | None = None
    image: Callable[[Region], tuple[Map, Map, Region]] | None = None
    rows: Map | None = None
    channels: tuple[Tensor, Tensor] | None = None
    scaled: Callable[[Tensor, Tensor], Affine] | None = None

    def clean(self, z: Tensor) -> Tensor:
        out = self.linear(z)
        return out if self.bias is None else out + self.bias

    def interval(self, *inputs: Interval, gamma: float) -> Interval:
        """Return W c + b ± |W| r (arXiv 1810.12715, Eq. 6), with the forward correction."""
        (box,) = inputs
        if self.exact:
            return Interval(self.linear(box.lo), self.linear(box.hi))
        middle, radius = box.middle_and_radius()
        if gamma:
            radius = radius + gamma * (middle.abs() + radius) + TINY
        middle, radius = self.clean(middle), self.absolute(radius)
        if gamma and self.bias_size is not None:
            radius = radius + gamma * self.bias_size
        return Interval(middle - radius, middle + radius)

    def size(self, reach: Sequence[Tensor], boxes: Sequence[Interval]) -> Tensor | None:
        if self.exact:
            return None
        size = self.absolute(reach[0])
        return size if self.bias_size is None else size + self.bias_size

    def deviation(
        self, precision: Precision, inputs: Sequence[Interval], out: Interval, size: Tensor | None
    ) -> Tensor | None:
        """Return the largest error of the network's evaluation, (N, *out), or None if it is
        exact."""
        if self.exact:
            return None
        assert self.arithmetic is not None, "an operation must say how it is evaluated"
        assert size is not None
        flat = inputs[0].size.flatten(1)
        long = self.mixing and LONG <= self.arithmetic.terms < VERY_LONG
        partial = self._partial_sums(inputs[0], size) if long else None
        return precision.of_sums(self.arithmetic, size, partial, flat.sum(1), flat.amax(1))

    def _partial_sums(self, box: Interval, both: Tensor) -> Tensor:
        """Return max(Σ p⁺, Σ p⁻) over the terms p of W z + b, for all z in the box.

        Args:
            both: Σ p⁺ + Σ p⁻, which is the ``size`` of ``box.parts``.
        """
        up, down = box.parts()
        return (both + self.clean(up - down).abs()) / 2 + ROUNDED * both

    def backward(self, A: Tensor) -> tuple[list[Tensor], Tensor | None]:
        moved = self.adjoint(A.flatten(0, 1))
        const = None if self.bias is None else dot(A, self.bias)
        return [moved.reshape(*A.shape[:2], *moved.shape[1:])], const


def linear(
    weight: Tensor, bias: Tensor | None, out_shape: Shape, arithmetic: Arithmetic | None = None
) -> Affine:
    """Return the map z ↦ z Wᵀ + b on the last dimension."""
    return Affine(
        lambda z: F.linear(z, weight),
        lambda z: F.linear(z, weight.abs()),
        lambda A: A @ weight,
        *whole_bias(bias, out_shape),
        arithmetic=arithmetic,
        rows=(lambda index: weight[index]) if len(out_shape) == 1 else None,
    )


def scale(
    factor: Tensor,
    shift: Tensor | None,
    shape: Shape,
    *,
    arithmetic: Arithmetic | None = None,
    shift_size: Tensor | None = None,
) -> Affine:
    """Return the map z ↦ factor ⊙ z + shift, where both broadcast against one example."""
    wide = factor.expand(shape)
    one = (shape[0], *(1,) * (len(shape) - 1))
    by_channel = all(t is None or t.numel() == 1 or t.shape == one for t in (factor, shift))
    added = factor.new_zeros(()) if shift is None else shift

    def crop(region: Region) -> tuple[Affine, Region]:
        own = wide[inside(region)[1:]]
        return replace(cropped_bias(op, region), adjoint=lambda A: A * own), region

    def image(region: Region) -> tuple[Map, Map, Region]:
        own = wide[inside(region)[1:]]
        return lambda z: z * own, lambda z: z * own.abs(), region

    op = Affine(
        lambda z: z * factor,
        lambda z: z * factor.abs(),
        lambda A: A * factor,
        *whole_bias(shift, shape, size=shift_size),
        arithmetic=arithmetic,
        mixing=False,
        crop=crop,
        image=image,
        channels=(factor.reshape(-1), added.reshape(-1)) if by_channel else None,
    )
    return op


def average(function: Map, in_shape: Shape, arithmetic: Arithmetic | None = None) -> Affine:
    """Return a linear map with coefficients ≥ 0 and no parameters, such as a mean or a sum.

    The adjoint is autograd's gradient of the map, which is the same at every point.
    """

    def adjoint(A: Tensor) -> Tensor:
        with torch.enable_grad():
            z = A.new_zeros(len(A), *in_shape).requires_grad_()
            out = function(z)
        (moved,) = torch.autograd.grad(out, z, A, create_graph=A.requires_grad)
        return moved

    return Affine(linear=function, absolute=function, adjoint=adjoint, arithmetic=arithmetic)


def zero_pad(before: Sequence[int], after: Sequence[int]) -> Affine:
    """Add zeros around the positions of every channel, or cut positions where a number is
    negative."""
    amounts = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]

    def forward(z: Tensor) -> Tensor:
        return F.pad(z, amounts)

    def crop(region: Region) -> tuple[Affine, Region]:
        moved = tuple((lo - b, hi - b) for (lo, hi), b in zip(region, before, strict=True))
        return replace(op, adjoint=lambda A: A), moved

    op = Affine(
        forward,
        forward,
        lambda A: F.pad(A, [-n for n in amounts]),
        exact=True,
        mixing=False,
        crop=crop,
    )
    return op


def rearrange(in_shape: Shape, out_shape: Shape) -> Affine:
    """Give the same entries another shape, in the same order."""

    def forward(z: Tensor) -> Tensor:
        return z.reshape(len(z), *out_shape)

    return Affine(
        forward, forward, lambda A: A.reshape(len(A), *in_shape), exact=True, mixing=False
    )


def whole_bias(
    bias: Tensor | None, shape: Sequence[int], *, size: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Return the fields ``bias`` and ``bias_size`` of ``Affine``, for one example."""
    if bias is None:
        return None, None
    size = bias.abs() if size is None else size
    return bias.expand(1, *shape), size.expand(1, *shape)


def inside(region: Region) -> tuple[slice, ...]:
    """Return the index of a region, for tensors (N, C, *positions)."""
    return (slice(None), slice(None), *(slice(lo, hi) for lo, hi in region))


def cropped_bias(op: Affine, region: Region) -> Affine:
    """Return the operation with only the part of its bias in a region."""
    if op.bias is None or op.bias_size is None:
        return op
    at = inside(region)
    return replace(op, bias=op.bias[at], bias_size=op.bias_size[at])


def moved(A: Tensor, own: Region, other: Region) -> Tensor:
    """Cut coefficients (…, *positions) of one region, or fill them with 0, to fit another
    region."""
    if own == other:
        return A
    if any(a_hi <= lo or hi <= a_lo for (a_lo, a_hi), (lo, hi) in zip(own, other, strict=True)):
        return A.new_zeros(*A.shape[: -len(own)], *(hi - lo for lo, hi in other))
    ends = [(a[0] - b[0], b[1] - a[1]) for a, b in zip(own, other, strict=True)]
    return F.pad(A, [n for end in reversed(ends) for n in end])
