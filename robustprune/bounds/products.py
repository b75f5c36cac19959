"""Enclose products of two values that both depend on the input.

With x = c + δ, |δ| ≤ r and y = d + η, |η| ≤ s, a bilinear product is x·y = c·y + x·d − c·d + δ·η,
and |δ·η| ≤ r·s. So it lies between two planes with the slopes d and c. They are halfway between the
two planes of McCormick on each side (as in Shi et al. 2020, arXiv 2002.06622, §3.3), and as near to
the product in the middle of the box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robustprune.bounds.affine import Region, moved
from robustprune.bounds.algebra import Interval, dot
from robustprune.bounds.precision import Arithmetic, Precision
from robustprune.bounds.rounding import EPS, TINY


class Bilinear(NamedTuple):
    """A bilinear map of (…, *left) and (…, *right), which broadcasts over leading dimensions.

    Attributes:
        times: the map; to_left, to_right: its adjoints, from coefficients of the result and the
            other factor to the coefficients of a factor.
        terms: the number of products in a sum.
    """

    times: Callable[[Tensor, Tensor], Tensor]
    to_left: Callable[[Tensor, Tensor], Tensor]
    to_right: Callable[[Tensor, Tensor], Tensor]
    terms: int


ENTRYWISE = Bilinear(torch.mul, torch.mul, torch.mul, 1)
#: entries (…, n) times one number for each row, (…, 1)
ROWWISE = Bilinear(torch.mul, torch.mul, lambda A, x: (A * x).sum(-1, keepdim=True), 1)


def matrix(terms: int) -> Bilinear:
    """Return the product of matrices, or of batches of matrices, with this inner dimension."""
    return Bilinear(torch.matmul, lambda A, y: A @ y.mT, lambda A, x: x.mT @ A, terms)


class Plane(NamedTuple):
    """The product lies within ``error`` of left·y + x·right + shift; all are (N, …)."""

    left: Tensor
    right: Tensor
    shift: Tensor
    error: Tensor


@dataclass(frozen=True)
class Product:
    """A product of two values.

    Attributes:
        moves: only in a crop: the region of the coefficients that come back, and the whole.
    """

    by: Bilinear
    moves: tuple[Region, Region] | None = None

    def clean(self, *zs: Tensor) -> Tensor:
        return self.by.times(*zs)

    def unsettled(self, box: Interval) -> Tensor:
        return box.hi > box.lo

    def interval(self, *inputs: Interval, gamma: float) -> Interval:
        """Return the exact interval of products of numbers, and c·d ± (|c|·s + r·|d| + r·s) of
        matrices."""
        if self.by is ENTRYWISE or self.by is ROWWISE:
            corners = [a * b for a in inputs[0] for b in inputs[1]]
            lo, hi = (torch.stack(corners).amin(0), torch.stack(corners).amax(0))
        else:
            plane = self.relax(*inputs)
            radii = [self._radius(box) for box in inputs]
            reach = self.by.times(plane.left.abs(), radii[1])
            reach = reach + self.by.times(radii[0], plane.right.abs()) + plane.error
            lo, hi = -plane.shift - reach, -plane.shift + reach
        if not gamma:
            return Interval(lo, hi)
        slack = 4 * gamma * self.by.times(inputs[0].size, inputs[1].size) + TINY
        return Interval(lo - slack, hi + slack)

    def size(self, reach: Sequence[Tensor], boxes: Sequence[Interval]) -> Tensor:
        return 5 * self.by.times(*reach)  # |c·y| + |x·d| + |c·d| + r·s, and their sum

    def deviation(
        self, precision: Precision, inputs: Sequence[Interval], out: Interval, size: Tensor | None
    ) -> Tensor:
        how = Arithmetic(self.by.terms, 4 * self.by.terms + 8)
        both = [box.size + precision.reach for box in inputs]
        total = sum((b.flatten(1).sum(1) for b in both), start=out.lo.new_zeros(()))
        greatest = torch.maximum(*(b.flatten(1).amax(1) for b in both))
        return precision.of_sums(how, self.by.times(*both), None, total, greatest)

    def relax(self, *inputs: Interval) -> Plane:
        middles = [box.middle_and_radius()[0] for box in inputs]
        error = self.by.times(*(self._radius(box) for box in inputs))
        left, right = middles
        return Plane(left, right, -self.by.times(left, right), error)

    def _radius(self, box: Interval) -> Tensor:
        middle, radius = box.middle_and_radius()
        return radius + 2 * EPS * (middle.abs() + radius) + TINY

    def backward(self, A: Tensor, plane: Plane) -> tuple[list[Tensor], Tensor]:
        A = A if self.moves is None else moved(A, *self.moves)
        to_left = self.by.to_left(A, plane.right.unsqueeze(1))
        to_right = self.by.to_right(A, plane.left.unsqueeze(1))
        const = dot(A, plane.shift) - dot(A.abs(), plane.error)
        return [to_left, to_right], const
