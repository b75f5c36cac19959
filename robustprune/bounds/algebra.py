"""Intervals, and products of coefficients A (N, S, …) with vectors (N, …).

S is the number of quantities to be bounded (margins, logits or neurons). N is 1 if all examples
have the same coefficients.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustprune.bounds.rounding import TINY


class Interval(NamedTuple):
    """Elementwise bounds lo ≤ z ≤ hi, each (N, …)."""

    lo: Tensor
    hi: Tensor

    @property
    def size(self) -> Tensor:
        """An upper bound m ≥ |z|."""
        return torch.maximum(self.lo.abs(), self.hi.abs())

    def parts(self) -> tuple[Tensor, Tensor]:
        """Return max z⁺ and max z⁻. Their sum is at least ``size``; it is equal where z has one
        sign."""
        return self.hi.clamp(min=0), (-self.lo).clamp(min=0)

    def middle_and_radius(self) -> tuple[Tensor, Tensor]:
        """Return c and r with [lo, hi] inside c ± r, up to the rounding of one operation each."""
        middle = (self.lo + self.hi) / 2
        return middle, torch.maximum(self.hi - middle, middle - self.lo)


def dot(A: Tensor, vector: Tensor) -> Tensor:
    """Return ⟨A_ns, v_n⟩ over all other dimensions, (N, S); N may be 1 for either."""
    if A.dim() > 3 and not A.is_contiguous():  # maybe with the channels last in memory
        A, vector = A.movedim(2, -1), vector.movedim(1, -1)
    rows, columns = A.flatten(2), vector.flatten(1)
    if len(rows) == 1:
        return columns @ rows[0].T
    if len(columns) == 1:
        return rows @ columns[0]
    return (rows @ columns.unsqueeze(2)).squeeze(2)


def least_over_box(A: Tensor, box: Interval, gamma: float) -> Tensor:
    """Return min ⟨A_ns, z⟩ over lo ≤ z ≤ hi, minus the rounding error for γ (see ``rounding``)."""
    middle, radius = box.middle_and_radius()
    if gamma:
        radius = radius + gamma * (middle.abs() + radius) + TINY
    return dot(A, middle) - dot(A.abs(), radius)
