"""Enclose any curve between two lines: GELU, SiLU, hard-swish, clamp, exp and others.

A curve is cut into sections on each of which its slope only rises (it is convex) or only falls.
The best line above [l, u] is the one that is lowest at the middle, because the area below a line is
(u − l) times its height there. Its height s m + max (f(z) − s z) is convex in its slope s, so s is
found by bisection. The line below is the same for −f.

Whatever the slope, the shift max (f(z) − s z) is bounded by what is certain: in a convex section
the maximum is at an end, and elsewhere f lies below every tangent. So no line depends on how well
the slope, or the point of the tangent, was found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robustprune.bounds.activations import Elementwise, Lines
from robustprune.bounds.algebra import Interval
from robustprune.bounds.precision import Precision
from robustprune.bounds.rounding import EPS, FUNCTION_ERROR, TINY

Map = Callable[[Tensor], Tensor]

#: the halvings in the search of a slope
HALVINGS = 12
#: contacts of a line that are nearer than this share of [l, u] count as one
TOGETHER = 1e-3


class Section(NamedTuple):
    """A part of a curve, from the end of the part before.

    Attributes:
        end: where it ends.
        convex: whether its slope rises.
        slope: its slope f'(z).
        touch: a function that returns a point of the section with about this slope; None for a
            straight line.
    """

    end: float
    convex: bool
    slope: Map
    touch: Map | None

    def peaked(self, sign: int) -> bool:
        """Return whether sign · (f(z) − s z) may be greatest between the ends."""
        return self.touch is not None and self.convex == (sign < 0)

    def within(self, s: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return a point in [a, b] with about the slope s."""
        assert self.touch is not None
        return torch.minimum(torch.maximum(self.touch(s), a), b)


@dataclass(frozen=True)
class Curve(Elementwise):
    """A continuous function of one number.

    Attributes:
        name: its name, for messages.
        value: f(z), with an error of at most FUNCTION_ERROR · (|z| + |f(z)|), or of |f(z)| where
            ``relative``.
        sections: its parts, from left to right; the last ends at ∞.
        start: where its domain begins.
        lowest: where f has a minimum between two sections; None for a monotone f.
        rounded: the error of the network's own f(z) in units of u and of ``scale``; 0 where it is
            exact, or where it is accounted for elsewhere.
        scale: the magnitude to which this error is relative: "input" |z|, "output" |f(z)|, "one"
            1, or "both" 1 + |z|.
        peak: no value on the way is larger than peak · |z|, unless f(z) is.
    """

    name: str
    value: Map
    sections: tuple[Section, ...]
    start: float = -torch.inf
    lowest: float | None = None
    rounded: float = 0.0
    scale: str = "input"
    peak: float = 1.0
    relative: bool = False

    def clean(self, z: Tensor) -> Tensor:
        return self.value(z)

    def unsettled(self, box: Interval) -> Tensor:
        return box.hi > box.lo

    def interval(self, *inputs: Interval, gamma: float) -> Interval:
        lo, hi = self._ends(inputs[0])
        below, above = torch.minimum(self.value(lo), self.value(hi)), self._highest(lo, hi)
        if self.lowest is not None:
            least = self.value(lo.new_tensor(self.lowest))
            below = torch.where((lo < self.lowest) & (hi > self.lowest), least, below)
        if not gamma:
            return Interval(below, above)
        slack = torch.maximum(below.abs(), above.abs())
        if not self.relative:
            slack = slack + torch.maximum(lo.abs(), hi.abs())
        slack = 2 * FUNCTION_ERROR * slack + TINY
        return Interval(below - slack, above + slack)

    def deviation(
        self, precision: Precision, inputs: Sequence[Interval], out: Interval, size: Tensor | None
    ) -> Tensor | None:
        if not self.rounded:
            return None
        size = inputs[0].size
        scales = {"input": size, "output": out.size, "one": torch.ones_like(size)}
        error = precision.of_result(scales.get(self.scale, 1 + size), self.rounded)
        return error.where(self.peak * size < precision.largest / 2, torch.inf)

    def size(self, reach: Sequence[Tensor], boxes: Sequence[Interval]) -> Tensor:
        lo, hi = self._ends(boxes[0])
        flat, steep = self._slopes(lo, hi)
        slope = torch.maximum(flat.abs(), steep.abs())
        return 2 * slope * reach[0] + self._magnitude(lo, hi)

    def relax(self, box: Interval, choice: Tensor | None = None) -> Lines:
        """Return the lines, with the slopes ``choice`` if it is given: (…, 2), below and above."""
        lo, hi = self._ends(Interval(box.lo.unsqueeze(1), box.hi.unsqueeze(1)))
        with torch.no_grad():
            limits = self._slopes(lo, hi)
        if choice is None:
            slopes = [self._best(lo, hi, limits, sign) for sign in (-1, 1)]
        else:
            slopes = list(choice.unbind(-1))
        slopes = [torch.minimum(torch.maximum(s, limits[0]), limits[1]) for s in slopes]
        shifts = [self._shift(lo, hi, s, sign) for s, sign in zip(slopes, (-1, 1), strict=True)]
        return Lines(slopes[0], shifts[0], slopes[1], shifts[1], torch.stack(slopes, -1))

    def _ends(self, box: Interval) -> tuple[Tensor, Tensor]:
        if self.start == -torch.inf:
            return box.lo, box.hi
        return box.lo.clamp(min=self.start), box.hi.clamp(min=self.start)

    def _highest(self, lo: Tensor, hi: Tensor) -> Tensor:
        return torch.maximum(self.value(lo), self.value(hi))

    def _magnitude(self, lo: Tensor, hi: Tensor) -> Tensor:
        """Return an upper bound of |f| on [lo, hi]."""
        found = torch.maximum(self.value(lo).abs(), self.value(hi).abs())
        if self.lowest is not None:
            found = found + self.value(lo.new_tensor(self.lowest)).abs()
        return found

    def _parts(self, lo: Tensor, hi: Tensor) -> list[tuple[Section, Tensor, Tensor, Tensor]]:
        """Return each section with its ends within [lo, hi], and whether it has any points."""
        found, begin = [], self.start
        for section in self.sections:
            a = lo if begin == -torch.inf else lo.clamp(min=begin)
            b = hi if section.end == torch.inf else hi.clamp(max=section.end)
            found.append((section, a, b, a <= b))
            begin = section.end
        return found

    def _slopes(self, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest slope of the curve on [lo, hi]."""
        least = torch.full_like(lo, torch.inf)
        greatest = -least
        for section, a, b, present in self._parts(lo, hi):
            for slope in (section.slope(a), section.slope(b)):
                least = torch.where(present, torch.minimum(least, slope), least)
                greatest = torch.where(present, torch.maximum(greatest, slope), greatest)
        return least, greatest

    def _best(self, lo: Tensor, hi: Tensor, limits: tuple[Tensor, Tensor], sign: int) -> Tensor:
        """Return the slope of the best line above (sign 1) or below (−1).

        It is that of the chord between the two points where this line meets the curve, or of the
        tangent at the middle where these are one. At most one of the points is an end of [lo, hi],
        or the line is a chord: moving the other one does not change the slope.
        """
        if len(self.sections) == 1 and self.sections[0].convex == (sign < 0):
            return self.sections[0].slope((lo + hi) / 2)
        wide = hi > lo
        with torch.no_grad():
            middle, left, right = (lo + hi) / 2, lo, hi
            if len(self.sections) > 1:
                parts, corners = self._parts(lo, hi), self._corners(lo, hi, sign)
                flat, steep = limits
                for _ in range(HALVINGS):
                    s = (flat + steep) / 2
                    z = self._highest_at(parts, corners, s, sign)
                    beyond = z > middle
                    left, right = torch.where(beyond, left, z), torch.where(beyond, z, right)
                    more = beyond if sign > 0 else ~beyond
                    flat, steep = torch.where(more, s, flat), torch.where(more, steep, s)
            apart = (right - left > TOGETHER * (hi - lo)) & wide
        p, q = torch.where(left <= lo, lo, left), torch.where(right >= hi, hi, right)
        gap = torch.where(apart, q - p, 1.0)
        chord = (self.value(q) - self.value(p)) / gap
        tangent = torch.zeros_like(lo)
        for section, _, end, present in self._parts((lo + hi) / 2, (lo + hi) / 2):
            tangent = torch.where(present, section.slope(end), tangent)
        return torch.where(apart, chord, tangent)

    def _corners(self, lo: Tensor, hi: Tensor, sign: int) -> tuple[Tensor, Tensor]:
        """Return lo and the ends of sections up to hi, and there sign · f(z), or −∞ below lo."""
        ends = [hi if part.end == torch.inf else hi.clamp(max=part.end) for part in self.sections]
        z = torch.stack([lo, *ends])
        return z, torch.where(z >= lo, sign * self.value(z), -torch.inf)

    def _highest_at(
        self,
        parts: list[tuple[Section, Tensor, Tensor, Tensor]],
        corners: tuple[Tensor, Tensor],
        s: Tensor,
        sign: int,
    ) -> Tensor:
        """Return about where sign · (f(z) − s z) is greatest."""
        best, index = (corners[1] - sign * s * corners[0]).max(0, keepdim=True)
        best, at = best[0], corners[0].gather(0, index)[0]
        for section, a, b, present in parts:
            if section.peaked(sign):
                z = section.within(s, a, b)
                height = sign * (self.value(z) - s * z)
                better = present & (height > best)
                best, at = torch.where(better, height, best), torch.where(better, z, at)
        return at

    def _shift(self, lo: Tensor, hi: Tensor, s: Tensor, sign: int) -> Tensor:
        """Return max (f(z) − s z) over [lo, hi] for sign 1, or the minimum for −1, rounded
        outward."""
        with torch.no_grad():
            best, at = torch.full_like(s, -torch.inf), lo.expand_as(s)
            for section, a, b, present in self._parts(lo, hi):
                points = [(a, torch.zeros_like(a)), (b, torch.zeros_like(b))]
                if section.peaked(sign):
                    z = section.within(s, a, b)
                    r = sign * (section.slope(z) - s)
                    points = [(z, torch.maximum(r * (a - z), r * (b - z)))]
                for z, above in points:
                    height = sign * (self.value(z) - s * z) + above
                    better = present & (height > best)
                    best, at = torch.where(better, height, best), torch.where(better, z, at)
            flat, steep = self._slopes(lo, hi)
            slope = s.abs() + torch.maximum(flat.abs(), steep.abs())
            size = self._magnitude(lo, hi) + (slope + (not self.relative)) * torch.maximum(
                lo.abs(), hi.abs()
            )
            best = sign * (best + 4 * FUNCTION_ERROR * size + TINY)
        # the gradient is that at the point of contact, which a change of the slope does not move
        at = torch.where(at <= lo, lo, torch.where(at >= hi, hi, at))
        found = self.value(at) - s * at
        return best + (found - found.detach()) if found.requires_grad else best


def tabulated(slope: Map, begin: float, end: float, count: int = 2048) -> Map:
    """Return the function that finds the point in [begin, end] where a monotone slope has a value.

    It looks the value up in a table and improves the point by one secant step.
    """
    tables: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def table(like: Tensor) -> tuple[Tensor, Tensor]:
        key = like.dtype, like.device
        if key not in tables:
            with torch.no_grad():
                z = torch.linspace(begin, end, count, dtype=torch.float64)
                s = slope(z)
                if s[0] > s[-1]:
                    z, s = z.flip(0), s.flip(0)
                tables[key] = tuple(t.to(like.dtype).to(like.device) for t in (z, s))  # type: ignore[assignment]
        return tables[key]

    def touch(s: Tensor) -> Tensor:
        z, slopes = table(s)
        i = torch.searchsorted(slopes, s.detach().contiguous()).clamp(1, count - 1)
        rise = slopes[i] - slopes[i - 1]
        usable = rise.abs() > 64 * EPS
        curvature = torch.where(usable, rise, 1.0) / (z[i] - z[i - 1])
        at = z[i - 1] + torch.where(usable, (s - slopes[i - 1]) / curvature, 0.0)
        at = torch.where(usable, at - (slope(at) - s) / curvature, at)
        return at.clamp(begin, end)

    return touch
