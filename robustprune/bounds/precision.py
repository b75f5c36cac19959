"""What the precision in which a network runs may make of its values.

A network is proven robust as it is deployed: evaluated in its own floating point format, not in
real numbers.  With unit roundoff u, a sum of n products in any order, with or without fused
operations, obeys (Higham 2002, *Accuracy and Stability of Numerical Algorithms*, §3.1)

    |fl(Σ aᵢbᵢ) − Σ aᵢbᵢ| ≤ γₙ Σ |aᵢ||bᵢ|,   γₙ = n u / (1 − n u),

where products by weights of 0 are exact and don't count.  A long sum is bounded more tightly: each
of its at most n additions is wrong by u times a partial sum, and no partial sum of terms p is
beyond M = max(Σ p⁺, Σ p⁻), about half of Σ |p| where signs are mixed; so the additions cost γₙ M,
and the products u Σ |p|.  Where numbers are so small that u is no bound of their relative error,
every operation may lose an absolute amount too, its ``floor``: the smallest normal number, so that
hardware which flushes smaller ones to zero is covered.  A value that may exceed the ``largest``
number counts as unbounded.

All these errors are added to the box of the node where they arise, and are paid for in every linear
bound that passes it, like the errors of the bounds themselves (see ``rounding``).  A node's box
thus holds its value in real numbers and in every evaluation.

Assumed: IEEE arithmetic in the format of the weights, or a better one (no TF32, no autocast, no
convolution by Winograd's or Fourier's algorithm), and tanh and sigmoid right to ULPS units in the
last place.  Weights that are computed, and constants combined before they meet the input, are
taken as the network computes them here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

#: units in the last place that tanh and sigmoid may be off
ULPS = 4
#: pays for the float64 rounding of the error bounds themselves
MARGIN = 1 + 2.0**-20
#: number of terms from which the tighter bound of a sum is worth its two products
LONG = 16


class Arithmetic(NamedTuple):
    """How a network may evaluate an affine operation.

    Attributes:
        terms: roundings that one product meets on its way into an output, at most.
        lost: operations of one output that may fall below the smallest number, times the factors
            that meet them later.
        peak: no value on the way exceeds peak · (1 + max |z|), unless the operation's size does.
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
        floor: absolute error of an operation whose result is too small for a relative one.
        largest: the largest number.
    """

    unit: float
    floor: float
    largest: float

    @classmethod
    def of(cls, dtype: torch.dtype) -> Precision:
        info = torch.finfo(dtype)
        # nothing flushes float16, whose smallest normal number is as large as many weights
        floor = info.smallest_normal * (info.eps if dtype == torch.float16 else 1)
        return cls(info.eps / 2, floor, info.max)

    @property
    def reach(self) -> float:
        """Added to every |z| in a size, it pays for inputs below the smallest normal number."""
        return self.floor / self.unit

    def gamma(self, terms: float) -> float:
        """γ for so many roundings and two more; ∞ where that bounds nothing."""
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
        """Errors of an affine operation, (N, *out); ∞ where a value on the way may overflow.

        Args:
            size: |W| |z| + |b| of each output, with ``reach`` added to |z|.
            partial: a bound of all partial sums, where it is known to be better than that.
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
        """Errors of operations that are right to so many roundings of their result, |value|."""
        error = self.gamma(terms) * value + 2 * self.floor
        return error.where(value < self.largest / 2, torch.inf)


def precision_of(model: nn.Module, dtype: torch.dtype) -> Precision:
    """The coarsest format among the network's weights; that of the inputs where it has none."""
    found = {p.dtype for p in model.parameters() if p.is_floating_point()} or {dtype}
    return Precision.of(max(found, key=lambda kind: torch.finfo(kind).eps))


def sum_of_products(weight: Tensor, bias: Tensor | None) -> Arithmetic:
    """For rows of weights (out, …) whose products are summed up."""
    rows = weight.flatten(1)
    count = int((rows != 0).sum(1).max()) if rows.numel() else 0
    terms = count + (bias is not None)
    return Arithmetic(terms, 4 * terms + 8)


def mean_of(count: int) -> Arithmetic:
    """For the sum of so many entries, divided by a number."""
    return Arithmetic(count + 2, 4 * count + 8, peak=count)


def constants(
    roundings: int, factor: Tensor, shift: Tensor | None, precision: Precision
) -> Arithmetic:
    """For factor ⊙ z + shift, whose constants are rounded too and must be numbers of the format."""
    values = (factor,) if shift is None else (factor, shift)
    fits = all(bool((value.abs() < precision.largest / 4).all()) for value in values)
    return Arithmetic(roundings if fits else math.inf, 8)
