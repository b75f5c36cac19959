"""Enclose elementwise nonlinearities between two lines: ReLU, leaky ReLU, tanh, sigmoid.

On [l, u] a nonlinearity f is enclosed by s z + t ≤ f(z) ≤ s' z + t'. For any slope, the shift is
computed from the extremes of f(z) − s z over [l, u]. So the lines are sound for every slope, also
for optimised and for rounded ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robustprune.bounds.algebra import Interval, dot
from robustprune.bounds.precision import ULPS, Precision
from robustprune.bounds.rounding import EPS, FUNCTION_ERROR, TINY

HALVINGS = 30


class Lines(NamedTuple):
    """Slopes and shifts of both lines, (N, 1 or S, …). A shift of None means 0.

    ``choice`` is what α-CROWN may optimise: the lower slope of a ReLU, the points where the two
    tangents of tanh or sigmoid touch the curve, along a last dimension of size 2, or there the
    slopes of both lines for a ``curves.Curve``.
    """

    lower_slope: Tensor
    lower_shift: Tensor | None
    upper_slope: Tensor
    upper_shift: Tensor
    choice: Tensor


class Elementwise(ABC):
    """The base class of all elementwise nonlinearities. Those that don't override ``interval`` and
    ``size`` are monotone with slopes in [0, 1]."""

    #: an upper bound of |f(z)| − |z|, for the size of shifts (see ``rounding``)
    bounded_by: float = 0.0
    function_error: float = EPS

    @abstractmethod
    def clean(self, z: Tensor) -> Tensor:
        """Return f(z)."""

    @abstractmethod
    def relax(self, box: Interval, choice: Tensor | None = None) -> Lines:
        """Return lines around f on the box. `choice`, where it is given, selects them."""

    @abstractmethod
    def unsettled(self, box: Interval) -> Tensor:
        """Return where tighter bounds of the input would give tighter lines."""

    def interval(self, *inputs: Interval, gamma: float) -> Interval:
        lo, hi = self.clean(inputs[0].lo), self.clean(inputs[0].hi)
        if gamma:
            lo = lo - self.function_error * lo.abs()
            hi = hi + self.function_error * hi.abs()
        return Interval(lo, hi)

    @abstractmethod
    def deviation(
        self, precision: Precision, inputs: Sequence[Interval], out: Interval, size: Tensor | None
    ) -> Tensor | None:
        """Return the largest error of the network's own f(z), (N, …), or None where it is exact."""

    def size(self, reach: Sequence[Tensor], boxes: Sequence[Interval]) -> Tensor:
        # |slope ⊙ z| ≤ m, |shift| ≤ |f(z)| + |slope ⊙ z|
        return 2 * reach[0] + self.bounded_by

    def backward(self, A: Tensor, lines: Lines) -> tuple[list[Tensor], Tensor | None]:
        """Use the lower line for positive coefficients and the upper line for negative ones.

        arXiv 1811.00866, Theorem 3.2.
        """
        positive, negative = A.clamp(min=0), A.clamp(max=0)
        moved = positive * lines.lower_slope + negative * lines.upper_slope
        const = _inner(negative, lines.upper_shift)
        if lines.lower_shift is not None:
            const = const + _inner(positive, lines.lower_shift)
        return [moved], const

    def step(self, A: Tensor, size: Tensor, lines: Lines) -> tuple[Tensor, Tensor, Tensor]:
        """Do the same as ``backward`` in fewer passes over A, with A⁺ + A⁻ = A and A⁺ − A⁻ = |A|.

        Args:
            size: |A|.

        Returns:
            The coefficients of the input, and u and v, (N, …), with ⟨A, u⟩ − ⟨|A|, v⟩ in the place
            of the constant ⟨A⁺, lower shift⟩ + ⟨A⁻, upper shift⟩.
        """
        low, high = lines.lower_slope / 2, lines.upper_slope / 2
        moved = (A * (low + high)).addcmul_(size, low - high)
        half = lines.upper_shift[:, 0] / 2
        if lines.lower_shift is None:
            return moved, half, half
        low = lines.lower_shift[:, 0] / 2
        return moved, half + low, half - low


def _inner(A: Tensor, vector: Tensor) -> Tensor:
    if vector.shape[1] == 1:
        return dot(A, vector[:, 0])
    return (A * vector).flatten(2).sum(2)


@dataclass(frozen=True)
class Rectifier(Elementwise):
    """max(z, a z) with 0 ≤ a ≤ 1, which is ReLU for a = 0."""

    slope: float = 0.0

    def clean(self, z: Tensor) -> Tensor:
        return torch.where(z > 0, z, self.slope * z) if self.slope else z.clamp(min=0)

    def deviation(
        self, precision: Precision, inputs: Sequence[Interval], out: Interval, size: Tensor | None
    ) -> Tensor | None:
        if not self.slope:
            return None
        # a slope below the smallest number is rounded, possibly to 0, before it multiplies z
        lost = precision.floor * (-inputs[0].lo).clamp(min=0)
        return precision.of_result((-out.lo).clamp(min=0), 2) + lost

    def unsettled(self, box: Interval) -> Tensor:
        """Return where tighter bounds of the input would give tighter lines: l < 0 < u."""
        return (box.lo < 0) & (box.hi > 0)

    def relax(self, box: Interval, choice: Tensor | None = None) -> Lines:
        """Return the chord above, and below α z with α = 1 where u > −l, else a, or ``choice``.

        arXiv 1811.00866, §3.3 (adaptive bounds).
        """
        lo, hi = box.lo.unsqueeze(1), box.hi.unsqueeze(1)
        crossing = (lo < 0) & (hi > 0)
        slope = lo.new_tensor(self.slope)
        settled = torch.where(lo >= 0, 1.0, slope)
        gap = torch.where(crossing, hi - lo, 1.0)
        upper = torch.where(crossing, (hi - self.slope * lo) / gap, settled)
        # convex: f(z) − s z is largest at an end
        shift = torch.maximum(self.slope * lo - upper * lo, hi - upper * hi)
        margin = 4 * (EPS * box.size.unsqueeze(1) + TINY)
        shift = torch.where(crossing, shift.clamp(min=0) + margin, 0.0)
        lower = torch.where(hi > -lo, 1.0, slope) if choice is None else choice
        # not clamp: torch 2.14 gives it no gradient at the ends of its range, where choices start
        lower = torch.minimum(lower, torch.ones_like(lower)).maximum(slope)
        lower = torch.where(crossing, lower, settled)
        return Lines(lower, None, upper, shift, lower)


@dataclass(frozen=True)
class Sigmoidal(Elementwise):
    """The function tanh(z), or the sigmoid ½ + ½ tanh(z/2)."""

    sigmoid: bool = False
    bounded_by = 1.0
    function_error = 2 * FUNCTION_ERROR

    def clean(self, z: Tensor) -> Tensor:
        return z.sigmoid() if self.sigmoid else z.tanh()

    def deviation(
        self, precision: Precision, inputs: Sequence[Interval], out: Interval, size: Tensor | None
    ) -> Tensor | None:
        # a unit in the last place is up to 2u of the value
        return precision.of_result(out.size, 2 * ULPS)

    def unsettled(self, box: Interval) -> Tensor:
        return box.hi > box.lo

    def relax(self, box: Interval, choice: Tensor | None = None) -> Lines:
        half = 0.5 if self.sigmoid else 1.0
        lo, hi = half * box.lo.unsqueeze(1), half * box.hi.unsqueeze(1)
        below, above = (None, None) if choice is None else choice.unbind(-1)
        slope, shift, below = _under_tanh(lo, hi, below)
        # tanh is odd: the line above is the line below −tanh(−z), turned around
        up_slope, up_shift, above = _under_tanh(-hi, -lo, above)
        up_shift = -up_shift
        if self.sigmoid:
            slope, up_slope = slope / 4, up_slope / 4
            shift = (0.5 + shift / 2) - FUNCTION_ERROR
            up_shift = (0.5 + up_shift / 2) + FUNCTION_ERROR
        return Lines(slope, shift, up_slope, up_shift, torch.stack((below, above), -1))


def _under_tanh(lo: Tensor, hi: Tensor, touch: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return slope and shift of a line below tanh on [lo, hi], and the point of its tangent.

    Where the chord lies below the curve, it is the line. Elsewhere the line is the tangent at
    ``touch`` (arXiv 1811.00866, Table 1). That point may not lie to the right of the one whose
    tangent passes through (hi, tanh hi). The default is the midpoint, or the nearest allowed point,
    because the area below a line is (hi − lo) times its height at the midpoint.
    """
    gap = torch.where(hi > lo, hi - lo, 1.0)
    chord = torch.where(hi > lo, (hi.tanh() - lo.tanh()) / gap, _slope(lo))
    chord_below = _slope(lo) >= chord
    latest = torch.where(hi <= 0, hi, _tangent_through(lo, hi))
    if touch is None:
        touch = (lo + hi) / 2
    touch = torch.minimum(torch.maximum(touch, lo), latest)
    slope = torch.where(chord_below, chord, _slope(touch)).clamp(0, 1)
    with torch.no_grad():
        # tanh z − s z has its inner minimum where tanh' = s on the convex side
        inner = -torch.atanh((1 - slope).sqrt())
        inner = torch.minimum(torch.maximum(inner, lo.expand_as(inner)), hi)
    gaps = [z.tanh() - slope * z for z in (lo, hi, inner)]
    size = 1 + torch.maximum(lo.abs(), hi.abs())
    shift = torch.minimum(torch.minimum(gaps[0], gaps[1]), gaps[2]) - 2 * FUNCTION_ERROR * size
    return slope, shift, touch


def _slope(z: Tensor) -> Tensor:
    return 1 - z.tanh().square()


def _tangent_through(lo: Tensor, hi: Tensor) -> Tensor:
    """Return the d ≤ 0 whose tangent of tanh passes through (hi, tanh hi), hi ≥ 0; at least lo.

    It is found by bisection of g(d) = tanh'(d)(hi − d) − (tanh hi − tanh d), which increases with
    d. A last Newton step carries the gradient with respect to hi.
    """
    with torch.no_grad():
        below, above = lo.clamp(max=0), torch.zeros_like(lo)
        for _ in range(HALVINGS):
            d = (below + above) / 2
            high = _slope(d) * (hi - d) >= hi.tanh() - d.tanh()
            below, above = torch.where(high, below, d), torch.where(high, d, above)
        d = above
        rise = -2 * d.tanh() * _slope(d) * (hi - d)  # g'(d)
    g = _slope(d) * (hi - d) - (hi.tanh() - d.tanh())
    steep = (rise > 1e-6) & (g.abs() < 1e-6 * rise)
    return d - torch.where(steep, g / torch.where(steep, rise, 1.0), 0.0)
