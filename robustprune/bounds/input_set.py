"""The set of inputs that a threat model allows, in the form that bounds need."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attacks import ThreatModel
from attacks.geometry import per_example
from attacks.threat import bounds_around
from robustprune.bounds.algebra import Interval, dot, least_over_box
from robustprune.bounds.precision import Precision
from robustprune.bounds.rounding import EPS, TINY, outward


@dataclass(frozen=True)
class InputSet:
    """{x' : ‖x' − x‖_p ≤ ε} ∩ bounds, with the smallest box around it.

    Attributes:
        x: (N, …), the centres; box: the smallest box around each set.
        radius: ε, broadcasting against x; norm: "linf", "l2" or "l1".
        cut: whether the bounds may cut the ball, so that the box adds information.
        free: where x may change, broadcasting against x; None for everywhere.
        cast: how far each entry may move, (N, …), when the input is cast to the network's own
            format, which is coarser than that of x; None without such a cast. The box includes it.
    """

    x: Tensor
    box: Interval
    radius: Tensor
    norm: str
    cut: bool
    free: Tensor | None
    cast: Tensor | None = None

    def least(self, A: Tensor, gamma: float) -> Tensor:
        """Return a lower bound of min ⟨A_ns, x'⟩ over the set, (N, S).

        In L∞ it is exact, over the box. In L2 and L1 it is ⟨a, x⟩ − ε‖a‖_dual, which is exact
        without bounds; with bounds it is the better of that and of the minimum over the box.
        """
        if self.norm == "linf":
            return least_over_box(A, self.box, gamma)
        moving = A if self.free is None else A * self.free.unsqueeze(1)
        flat = moving.flatten(2)
        dual = flat.abs().amax(2) if self.norm == "l1" else torch.linalg.vector_norm(flat, dim=2)
        reach = dual * self.radius.flatten()[:, None]
        if not gamma:
            least = dot(A, self.x) - reach
        else:
            if self.norm == "l2":  # squares of small coefficients underflow
                reach = reach + math.sqrt(TINY * flat.shape[2]) * self.radius.flatten()[:, None]
            least = dot(A, self.x) - reach
            least = least - gamma * (dot(A.abs(), self.x.abs() + TINY / EPS) + reach)
        return torch.maximum(least, least_over_box(A, self.box, gamma)) if self.cut else least

    def select(self, rows: slice | Tensor) -> InputSet:
        """Return the sets of some examples."""
        return replace(self.cropped((rows,)), radius=self.radius[rows])

    def cropped(self, inside: tuple[slice | Tensor, ...]) -> InputSet:
        """Return the set for some positions of the inputs; all others must have coefficients 0."""
        return replace(
            self,
            x=self.x[inside],
            box=Interval(self.box.lo[inside], self.box.hi[inside]),
            free=None if self.free is None else self.free[inside],
            cast=None if self.cast is None else self.cast[inside],
        )


def input_set(
    x: Tensor, threat: ThreatModel, dtype: torch.dtype, precision: Precision | None = None
) -> InputSet:
    """Return the set around x in ``dtype``. For a certificate the box is rounded outward.

    The bounds are widened to their values in the dtype of x, to which an attack clamps (0.1 is
    0.10000000149 in float32), and to x itself, which may lie beyond them by a rounding error.

    Args:
        precision: the precision of the network, for certificates; None in training.
    """
    centre = x.to(dtype)
    radius = per_example(threat.eps, centre)
    lo, hi = centre - radius, centre + radius
    if precision is not None:
        lo, hi = outward(lo, hi)
    bounds, own = bounds_around(threat.bounds, centre), bounds_around(threat.bounds, x)
    if bounds is not None and own is not None:
        low, high = (torch.as_tensor(b, dtype=dtype, device=x.device) for b in bounds)
        own_low, own_high = (torch.as_tensor(b, device=x.device).to(x.dtype).to(dtype) for b in own)
        low, high = torch.minimum(low, own_low), torch.maximum(high, own_high)
        lo, hi = torch.maximum(lo, low), torch.minimum(hi, high)
    free = None if threat.support is None else threat.support(x).expand_as(x)
    if free is not None:
        lo, hi = torch.where(free, lo, centre), torch.where(free, hi, centre)
    radius = radius.expand(len(x), *radius.shape[1:])
    cast, box = None, Interval(lo, hi)
    if precision is not None:
        radius = radius * (1 + EPS)
        if torch.finfo(x.dtype).eps / 2 < precision.unit:
            cast = precision.of_result(box.size, 1)
            box = Interval(lo - cast, hi + cast)
    return InputSet(centre, box, radius, threat.norm, bounds is not None, free, cast)
