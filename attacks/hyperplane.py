"""Compute the smallest step inside the bounds that reaches a hyperplane."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.box import Bound, tensors_of
from attacks.geometry import lengths, per_example


def _fill(weight: Tensor, room: Tensor, gap: Tensor, *, weighted: bool) -> Tensor:
    """Solve Σ_i w_i min(t r_i, room_i) = gap for t ≥ 0, per row; return the step min(t r, room).

    The rate r is w where `weighted` (L2), else 1 (L∞; entries with w = 0 have no meaning). The left
    side is concave and piecewise linear in t. Newton's method from t = 0 therefore climbs to the
    root without passing it, and reaches it exactly in the right piece. Where the gap can't be
    closed, the step goes as far as the bounds allow.
    """
    limits = torch.finfo(weight.dtype)
    gain = weight * weight if weighted else weight
    step, t, short = torch.zeros_like(weight), torch.zeros_like(gap), gap
    for _ in range(20):
        slope = (gain * (room - step).sign()).sum(1, keepdim=True)  # of entries with room left
        further = (t + short.clamp_min(0) / slope.clamp_min(limits.tiny)).clamp_max(limits.max)
        t = torch.where(slope > 0, further, limits.max)
        step = torch.minimum(t * weight if weighted else t, room)
        short = gap - (weight * step).sum(1, keepdim=True)
        if bool(((short <= 1e-6 * gap) | (t == limits.max)).all()):
            break
    return step


def _fill_sparsest(weight: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """Solve the L1 version: use the entries fully, in the order of their weight."""
    order = weight.argsort(dim=1, descending=True)
    ranked, space = weight.gather(1, order), room.gather(1, order)
    space = torch.where(ranked > 0, space, 0.0)
    gain = torch.where(ranked > 0, ranked * space, 0.0)
    before = gain.cumsum(1) - gain
    before = torch.where(gain.isinf(), before.nan_to_num(0.0), before)
    if bool(gain.isinf().any()):  # without bounds, the first entry takes the whole step
        before = torch.full_like(gain, torch.inf)
        before[:, 0] = 0.0
    part = (gap - before).clamp_min(0) / ranked.clamp_min(torch.finfo(weight.dtype).tiny)
    step = torch.minimum(torch.where(ranked > 0, part, 0.0), space)
    return torch.zeros_like(step).scatter(1, order, step)


def step_to_hyperplane(
    x: Tensor, normal: Tensor, gap: Tensor, norm: str, bounds: tuple[Bound, Bound] | None
) -> Tensor:
    """Return argmin_d ‖d‖_p s.t. ⟨w, d⟩ = gap, lo ≤ x + d ≤ hi.

    Croce & Hein 2020 (arXiv 1907.02044), eq. 5.

    Args:
        x: (N, …); normal: w, in the shape of x; gap: with its sign, shape (N,).
        bounds: bounds that ``bounds_like`` has fitted to x, or None.

    Returns:
        d, in the shape of x; where no allowed step reaches the plane, the step that comes nearest.
    """
    sign = torch.where(gap < 0, -1.0, 1.0).to(x)
    towards = normal * per_example(sign, x)
    if bounds is None:
        room = torch.full_like(x, torch.inf)
    else:  # masks as factors are several times as fast as torch.where on a CPU
        lo, hi = tensors_of(bounds, x)
        largest = torch.finfo(x.dtype).max
        upwards = (towards > 0).to(x.dtype)
        room = (hi - x).clamp(0, largest) * upwards + (x - lo).clamp(0, largest) * (1 - upwards)
    # weights are divided by the largest one, so that their squares do not underflow
    scale = lengths(normal, "linf").clamp_min(torch.finfo(x.dtype).tiny).unsqueeze(1)
    weight, room = towards.abs().flatten(1) / scale, room.flatten(1)
    missing = gap.abs().unsqueeze(1) / scale
    if norm == "l1":
        step = _fill_sparsest(weight, room, missing)
    else:
        step = _fill(weight, room, missing, weighted=norm == "l2")
    return step.reshape(x.shape) * towards.sign()
