"""Keep points inside a ball exactly, in every precision of the inputs.

A float16 or float32 difference x' − x is itself rounded, and so is its norm: a distance that is
computed as ε may be larger. Here distances are those of the numbers x and x', in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.geometry import lengths, per_example, project_ball


def precise(x: Tensor) -> torch.dtype:
    """Return the dtype in which differences of such inputs are exact; Apple's GPUs lack float64."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def widened(x: Tensor) -> Tensor:
    """Return x in float32 if its dtype is narrower.

    Between 0.5 and 1 the numbers of bfloat16 are 1/256 apart: an attack with steps shorter than
    half of that would not move.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rounded_down(eps: float | Tensor, x: Tensor) -> Tensor:
    """Return the largest number of x's dtype that is not above eps (float32 rounds 0.1 up)."""
    exact = torch.as_tensor(eps, dtype=None if isinstance(eps, Tensor) else torch.float64)
    near = exact.to(x.dtype)
    below = torch.nextafter(near, torch.zeros_like(near))
    floor = torch.where(near.to(exact.dtype) > exact, below, near)
    return per_example(floor if isinstance(eps, Tensor) else floor.item(), x)


def add_toward(x: Tensor, delta: Tensor) -> Tensor:
    """Return x + δ in x's dtype, with |(x + δ) − x| ≤ |δ| in spite of rounding."""
    centre, delta = x.to(precise(x)), delta.to(precise(x))
    out = (centre + delta).to(x.dtype)
    return torch.where((out - centre).abs() > delta.abs(), torch.nextafter(out, x), out)


def beyond(x: Tensor, x_adv: Tensor, norm: str, radius: Tensor) -> Tensor:
    """Return where x_adv is outside the ball, exactly or in its dtype, (N, 1, …, 1) bool."""
    far = per_example(lengths(x_adv - x.to(precise(x)), norm), x.to(precise(x))) > radius
    if x.element_size() > 2:  # a norm in float16 is too inexact
        far |= per_example(lengths(x_adv - x, norm), x) > radius
    return far


def into_ball(x: Tensor, x_adv: Tensor, norm: str, radius: Tensor, *, exact: bool) -> Tensor:
    """Project on an L2 or L1 ball around x; points that are inside remain exactly the same."""
    working = torch.promote_types(x.dtype, torch.float32)  # a sum in float16 is too inexact
    delta, bound = x_adv.to(working) - x.to(working), radius.to(working)
    if exact:
        outside = beyond(x, x_adv, norm, radius)
    else:
        outside = per_example(lengths(delta, norm), delta) > bound
    out = torch.where(outside, (x.to(working) + project_ball(delta, norm, bound)).to(x), x_adv)
    return _not_beyond(x, out, norm, radius) if exact else out


def _not_beyond(x: Tensor, x_adv: Tensor, norm: str, radius: Tensor) -> Tensor:
    """Move as few entries of x_adv as needed towards x, until its distance is at most radius.

    Rounding x + δ can lengthen δ. In float16, a step back of every entry would lose a large part of
    ε, so only the first entries that compensate for the excess go back, by one number each.
    """
    centre, limit, power = x.to(precise(x)), radius.to(precise(x)), 1 if norm == "l1" else 2
    ulp = min(torch.finfo(x.dtype).eps, torch.finfo(torch.float32).eps)
    out = x_adv
    for slack in (4, 4, 4, 32, 32, 256):
        outside = beyond(x, out, norm, radius)
        if not bool(outside.any()):
            return out
        delta = out - centre
        length = per_example(lengths(delta, norm), centre)
        back = torch.nextafter(out, x)
        excess = length**power - (limit * (1 - slack * ulp)) ** power
        gain = (delta.abs() ** power - (back - centre).abs() ** power).flatten(1)
        enough = (gain.cumsum(1) - gain).reshape(x.shape) >= excess
        out = torch.where(outside & ~enough, back, out)
    delta = out - centre
    length = per_example(lengths(delta, norm), centre)
    shrunk = delta * (limit / length.clamp_min(torch.finfo(x.dtype).tiny) * (1 - 4096 * ulp))
    return torch.where(length > limit, add_toward(x, shrunk), out)
