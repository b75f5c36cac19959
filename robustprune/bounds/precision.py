"""Bound the rounding errors of a network in its own precision.

A certificate holds for the network as it is deployed, evaluated in its own floating point format,
and not in real numbers.  With unit roundoff u, a sum of n products in any order, with or without
fused operations, obeys (Higham 2002, *Accuracy and Stability of Numerical Algorithms*, §3.1)

    |fl(Σ aᵢbᵢ) − Σ aᵢbᵢ| ≤ γₙ Σ |aᵢ||bᵢ|,   γₙ = n u / (1 − n u),

where products with weights of 0 are exact and don't count.  A long sum has a tighter bound: each of
its at most n additions has an error of at most u times a partial sum, and no partial sum of terms p
exceeds M = max(Σ p⁺, Σ p⁻), which is about half of Σ |p| for mixed signs.  So the error of the
additions is γₙ M, and that of the products u Σ |p|.  For very small numbers, u does not bound the
relative error, and every operation has an absolute error, its ``floor``: the smallest normal
number, which covers hardware that flushes smaller numbers to zero.  A value that may exceed the
``largest`` number counts as unbounded.

All these errors are added to the box of the node where they arise, and are subtracted from every
linear bound that passes it, like the errors of the bounds themselves (see ``rounding``).  So a
node's box contains its value in real numbers and in every evaluation.

The assumptions are IEEE arithmetic in the format of the weights, or a better one (no TF32, no
autocast, no convolution by Winograd's or Fourier's algorithm), and tanh, sigmoid, exp and erf with
an error of at most ULPS units in the last place.  Computed weights, and constants that are combined
before they meet the input, have the values that the network computes here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

#: the largest error of tanh, sigmoid, exp and erf, in units in the last place
ULPS = 4
#: a factor that covers the float64 rounding of the error bounds themselves
MARGIN = 1 + 2.0**-20
#: the number of terms from which on the tighter bound of a sum is worth its two products
LONG = 16


class Arithmetic(NamedTuple):
    """How a network may evaluate an affine operation.

    Attributes:
        terms: the largest number of roundings of one product on its way into an output.
        lost: the number of operations for one output that may fall below the smallest number, times
            the factors that multiply them later.
        peak: no intermediate value exceeds peak · (1 + max |z|), unless the operation's size does.
    """

    terms: float
    lost: float
    peak: float = 0.0


EXACT = Arithmetic(0, 0)


@dataclass(frozen=True)
class Precision:
    """A floating point format.

    Attributes:
        unit: u, half the distance from 1 to the next number.
        floor: the absolute error of an operation whose result is too small for a relative bound.
        largest: the largest number.
    """

    unit: float
    floor: float
    largest: float

    @classmethod
    def of(cls, dtype: torch.dtype) -> Precision:
        info = torch.finfo(dtype)
        # no hardware flushes float16, whose smallest normal number is as large as many weights
        floor = info.smallest_normal * (info.eps if dtype == torch.float16 else 1)
        return cls(info.eps / 2, floor, info.max)

    @property
    def reach(self) -> float:
        """A number that is added to every |z| in a size, to cover subnormal inputs."""
        return self.floor / self.unit

    def gamma(self, terms: float) -> float:
        """Return γ for this number of roundings and two more, or ∞ where that is no bound."""
        if terms == 0:
            return 0.0
        error = (terms + 2) * self.unit
        return MARGIN * error / (1 - error) if error < 0.5 else math.inf

    def of_sums(
        self,
        arithmetic: Arithmetic,
        size: Tensor,
        partial: Tensor | None,
        total: Tensor,
        greatest: Tensor,
    ) -> Tensor:
        """Return the errors of an affine operation, (N, *out); ∞ where a value on the way may
        overflow.

        Args:
            size: |W| |z| + |b| of each output, with ``reach`` added to |z|.
            partial: a bound of all partial sums that is better than ``size``, or None.
            total, greatest: Σ |z| and max |z| of each example, (N,).
        """
        gamma = self.gamma(arithmetic.terms)
        flushed = self.floor * (arithmetic.lost + (2 + arithmetic.peak) * total)
        flushed = flushed.where(arithmetic.peak * (1 + greatest) < self.largest, torch.inf)
        if partial is None:
            error = gamma * size
        else:
            error = gamma * (partial + MARGIN * self.unit * size) + self.gamma(1) * size
        error = error + flushed.reshape(-1, *(1,) * (size.dim() - 1))
        return error.where((1 + gamma) * size < self.largest / MARGIN, torch.inf)

    def of_result(self, value: Tensor, terms: float) -> Tensor:
        """Return the errors of operations with this number of relative roundings of |value|."""
        error = self.gamma(terms) * value + 2 * self.floor
        return error.where(value < self.largest / 2, torch.inf)


def precision_of(model: nn.Module, dtype: torch.dtype) -> Precision:
    """Return the coarsest format among the network's weights, or that of the inputs if it has
    none."""
    found = {p.dtype for p in model.parameters() if p.is_floating_point()} or {dtype}
    return Precision.of(max(found, key=lambda kind: torch.finfo(kind).eps))


def sum_of_products(weight: Tensor, bias: Tensor | None) -> Arithmetic:
    """Return the arithmetic of rows of weights (out, …) whose products are summed."""
    rows = weight.flatten(1)
    count = int((rows != 0).sum(1).max()) if rows.numel() else 0
    terms = count + (bias is not None)
    return Arithmetic(terms, 4 * terms + 8)


def mean_of(count: int) -> Arithmetic:
    """Return the arithmetic of a sum of this number of entries, divided by a number."""
    return Arithmetic(count + 2, 4 * count + 8, peak=count)


def constants(
    roundings: int, factor: Tensor, shift: Tensor | None, precision: Precision
) -> Arithmetic:
    """Return the arithmetic of factor ⊙ z + shift; constants are rounded and must fit the
    format."""
    values = (factor,) if shift is None else (factor, shift)
    fits = all(bool((value.abs() < precision.largest / 4).all()) for value in values)
    return Arithmetic(roundings if fits else math.inf, 8)
