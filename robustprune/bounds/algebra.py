"""Intervals, and products of coefficients A (N, S, …) with vectors (N, …).

S counts the quantities to be bounded (margins, logits or neurons).  N is 1 where the coefficients
are the same for every example.
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
        """m ≥ |z|."""
        return torch.maximum(self.lo.abs(), self.hi.abs())

    def parts(self) -> tuple[Tensor, Tensor]:
        """max z⁺ and max z⁻, whose sum is at least ``size``, and that where z keeps its sign."""
        return self.hi.clamp(min=0), (-self.lo).clamp(min=0)

    def middle_and_radius(self) -> tuple[Tensor, Tensor]:
        """c and r with [lo, hi] inside c ± r, up to the rounding of one operation each."""
        middle = (self.lo + self.hi) / 2
        return middle, torch.maximum(self.hi - middle, middle - self.lo)


def dot(A: Tensor, vector: Tensor) -> Tensor:
    """⟨A_ns, v_n⟩ over all other dimensions, (N, S); either may have N = 1."""
    rows, columns = A.flatten(2), vector.flatten(1)
    if len(rows) == 1:
        return columns @ rows[0].T
    if len(columns) == 1:
        return rows @ columns[0]
    return (rows @ columns.unsqueeze(2)).squeeze(2)


def least_over_box(A: Tensor, box: Interval, gamma: float) -> Tensor:
    """min ⟨A_ns, z⟩ over lo ≤ z ≤ hi, less the rounding error for γ (see ``rounding``)."""
    middle, radius = box.middle_and_radius()
    if gamma:
        radius = radius + gamma * (middle.abs() + radius) + TINY
    return dot(A, middle) - dot(A.abs(), radius)
