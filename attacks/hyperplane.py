"""The smallest step inside the bounds that reaches a hyperplane."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.geometry import lengths, per_example
from attacks.threat import Bound


def _fill(weight: Tensor, room: Tensor, rate: Tensor, gap: Tensor) -> Tensor:
    """Solve Σ_i w_i min(t rate_i, room_i) = gap for t ≥ 0, per row; return the step.

    The left side is concave and piecewise linear in t, so Newton's method from t = 0 climbs to
    the root without passing it and lands on it exactly once the right piece is reached.  Where
    the gap can't be closed, the step goes as far as the bounds let it.
    """
    tiny = torch.finfo(weight.dtype).tiny
    step = torch.zeros_like(weight)
    t = torch.zeros_like(gap)
    for _ in range(20):
        short = gap - (weight * step).sum(1, keepdim=True)
        slope = (weight * rate * (step < room)).sum(1, keepdim=True)
        t = torch.where(slope > 0, t + short.clamp_min(0) / slope.clamp_min(tiny), torch.inf)
        step = torch.where(rate > 0, torch.minimum(t * rate, room), 0.0)
        if bool(((gap - (weight * step).sum(1, keepdim=True) <= 1e-6 * gap) | t.isinf()).all()):
            break
    return step


def _fill_sparsest(weight: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """The L1 version: use up the entries in the order of their weight."""
    order = weight.argsort(dim=1, descending=True)
    ranked, space = weight.gather(1, order), room.gather(1, order)
    space = torch.where(ranked > 0, space, 0.0)
    gain = torch.where(ranked > 0, ranked * space, 0.0)
    before = gain.cumsum(1) - gain
    before = torch.where(gain.isinf(), before.nan_to_num(0.0), before)
    if bool(gain.isinf().any()):  # no bounds: the first entry takes it all
        before = torch.full_like(gain, torch.inf)
        before[:, 0] = 0.0
    part = (gap - before).clamp_min(0) / ranked.clamp_min(torch.finfo(weight.dtype).tiny)
    step = torch.minimum(torch.where(ranked > 0, part, 0.0), space)
    return torch.zeros_like(step).scatter(1, order, step)


def step_to_hyperplane(
    x: Tensor, normal: Tensor, gap: Tensor, norm: str, bounds: tuple[Bound, Bound] | None
) -> Tensor:
    """argmin_d ‖d‖_p s.t. ⟨w, d⟩ = gap, lo ≤ x + d ≤ hi.

    Croce & Hein 2020 (arXiv 1907.02044), eq. 5.

    Args:
        x: (N, …); normal: w, shaped like x; gap: signed, shape (N,).
        bounds: already fitted by ``bounds_like``, or None.

    Returns:
        d, shaped like x; where no allowed step reaches the plane, the one that comes nearest.
    """
    sign = torch.where(gap < 0, -1.0, 1.0).to(x)
    towards = normal * per_example(sign, x)
    if bounds is None:
        room = torch.full_like(x, torch.inf)
    else:
        lo, hi = (torch.as_tensor(bound).to(x) for bound in bounds)
        room = torch.where(towards > 0, hi - x, x - lo).clamp_min(0)
    # weights are scaled by their largest: their squares must not underflow
    scale = lengths(normal, "linf").clamp_min(torch.finfo(x.dtype).tiny).unsqueeze(1)
    weight, room = towards.abs().flatten(1) / scale, room.flatten(1)
    missing = gap.abs().unsqueeze(1) / scale
    if norm == "l1":
        step = _fill_sparsest(weight, room, missing)
    elif norm == "linf":
        step = _fill(weight, room, (weight > 0).to(weight.dtype), missing)
    else:
        step = _fill(weight, room, weight, missing)
    return step.reshape(x.shape) * towards.sign()
