"""Enclose max pooling between two planes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustprune.bounds.affine import Region, Shape
from robustprune.bounds.algebra import Interval, dot
from robustprune.bounds.precision import Precision
from robustprune.bounds.rounding import EPS, TINY


class Planes(NamedTuple):
    """z_lower ≤ max ≤ upper_slope · z_upper + upper_shift, with one entry of each window each.

    Indices refer to the flattened positions of one channel; all tensors are (N, C, windows).
    """

    lower_index: Tensor
    upper_index: Tensor
    upper_slope: Tensor
    upper_shift: Tensor


class Windows(NamedTuple):
    """The size, stride, padding and dilation of the windows, along each dimension."""

    kernel: Shape
    stride: Shape
    padding: Shape
    dilation: Shape


class MaxPool:
    """The maximum over windows of the positions of each channel.

    Attributes:
        in_shape, out_shape: the shapes of one example, channels first.
        index: (taps, windows), positions in the flattened input; real: whether each is a position,
            and not padding.
    """

    def __init__(
        self, windows: Windows, in_shape: Shape, out_shape: Shape, device: torch.device
    ) -> None:
        self.windows, self.in_shape, self.out_shape = windows, in_shape, out_shape
        self.index, self.real = _places(windows, in_shape[1:], out_shape[1:], device)

    def cropped(self, region: Region) -> tuple[MaxPool, Region]:
        """Return the windows of a region, and the region of inputs that they cover."""
        field, padding = [], []
        for (lo, hi), size, k, s, p, d in zip(
            region, self.in_shape[1:], *self.windows, strict=True
        ):
            first, last = lo * s - p, (hi - 1) * s - p + d * (k - 1) + 1
            field.append((max(first, 0), min(last, size)))
            padding.append(max(-first, 0))
        in_shape = (self.in_shape[0], *(hi - lo for lo, hi in field))
        out_shape = (self.out_shape[0], *(hi - lo for lo, hi in region))
        windows = self.windows._replace(padding=tuple(padding))
        return MaxPool(windows, in_shape, out_shape, self.index.device), tuple(field)

    def _windows(self, z: Tensor) -> Tensor:
        """Arrange (N, C, …) as (N, C, taps, windows), with −∞ for padding."""
        return torch.where(self.real, z.flatten(2)[:, :, self.index], -torch.inf)

    def clean(self, z: Tensor) -> Tensor:
        return self._windows(z).amax(2).reshape(len(z), *self.out_shape)

    def interval(self, *inputs: Interval, gamma: float) -> Interval:
        return Interval(self.clean(inputs[0].lo), self.clean(inputs[0].hi))

    def size(self, reach: Sequence[Tensor], boxes: Sequence[Interval]) -> Tensor:
        return 3 * self.clean(reach[0])  # |slope z| + |shift| ≤ m + 2 m

    def deviation(
        self, precision: Precision, inputs: Sequence[Interval], out: Interval, size: Tensor | None
    ) -> None:
        return None

    def unsettled(self, box: Interval) -> Tensor:
        """Return the entries of windows in which more than one entry may be the maximum."""
        lo, hi = self._windows(box.lo), self._windows(box.hi)
        candidate = hi > lo.amax(2, keepdim=True)
        open_ = candidate & (candidate.sum(2, keepdim=True) > 1) & self.real
        flat = box.lo.flatten(2)
        places = self.index.expand_as(open_).flatten(2)
        found = torch.zeros_like(flat).scatter_add(2, places, open_.to(flat).flatten(2))
        return (found > 0).reshape(box.lo.shape)

    def relax(self, box: Interval) -> Planes:
        """Use below the entry with the greatest lower bound.

        Above, let j be the entry with the greatest upper bound u_j, and u' the next greatest. Then
        max z ≤ max(z_j, u'), which lies below its chord on [l_j, u_j].
        """
        lo, hi = self._windows(box.lo), self._windows(box.hi)
        best = hi.topk(min(2, hi.shape[2]), dim=2)
        first, at = best.values[:, :, 0], best.indices[:, :, 0]
        other = best.values[:, :, 1] if hi.shape[2] > 1 else torch.full_like(first, -torch.inf)
        low = lo.gather(2, at.unsqueeze(2)).squeeze(2)
        start = torch.maximum(low, other)  # the chord's value at l_j
        gap = torch.where(first > low, first - low, 1.0)
        slope = torch.where(first > low, (first - start) / gap, 0.0).clamp(0, 1)
        shift = torch.maximum(start - slope * low, first - slope * first)
        # z_j is always above all others: max = z_j without any rounding
        alone = low >= other
        slope, shift = torch.where(alone, 1.0, slope), torch.where(alone, 0.0, shift)
        margin = 8 * (EPS * torch.maximum(first.abs(), low.abs()) + TINY)
        shift = torch.where(alone, shift, shift + margin)
        windows = torch.arange(self.index.shape[1], device=self.index.device)
        return Planes(self.index[lo.argmax(2), windows], self.index[at, windows], slope, shift)

    def backward(self, A: Tensor, planes: Planes) -> tuple[list[Tensor], Tensor]:
        flat = A.flatten(3)
        positive, negative = flat.clamp(min=0), flat.clamp(max=0)
        count = len(planes.upper_slope)
        moved = A.new_zeros(count, A.shape[1], self.in_shape[0], math.prod(self.in_shape[1:]))
        shape = (count, *flat.shape[1:])
        for index, part in (
            (planes.lower_index, positive.expand(shape)),
            (planes.upper_index, negative * planes.upper_slope.unsqueeze(1)),
        ):
            moved = moved.scatter_add(3, index.unsqueeze(1).expand(shape), part)
        const = dot(negative, planes.upper_shift)
        return [moved.reshape(count, A.shape[1], *self.in_shape)], const


def _places(
    windows: Windows, in_places: Shape, out_places: Shape, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the positions that each window covers: index and real, both (taps, windows)."""
    index = torch.zeros(1, 1, dtype=torch.long, device=device)
    real = torch.ones(1, 1, dtype=torch.bool, device=device)
    for size, after, k, s, p, d in zip(in_places, out_places, *windows, strict=True):
        taps = torch.arange(k, device=device)[:, None] * d
        place = torch.arange(after, device=device) * s - p + taps  # (k, after)
        inside = (place >= 0) & (place < size)
        place = place.clamp(0, size - 1)
        shape = (len(index) * k, index.shape[1] * after)
        index = (index[:, None, :, None] * size + place[None, :, None, :]).reshape(shape)
        real = (real[:, None, :, None] & inside[None, :, None, :]).reshape(shape)
    return index, real
