"""Norm balls for each example: lengths, projections, steepest directions, uniform samples.

Every function takes a batch whose first dimension counts examples and treats the rest as one
vector, so it works for tables, series, images and embeddings. A radius is a float or has one value
per example, shape (N,).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NORMS = ("linf", "l2", "l1")
DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
_ORDER = {"linf": math.inf, "l2": 2.0, "l1": 1.0}


def brief(value: object) -> str:
    """Return the repr of an option for a message: on one line, cut after 120 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else text[:117] + "..."


def check_norm(norm: str) -> None:
    """Raise ValueError unless ``norm`` is one of ``NORMS``."""
    if not isinstance(norm, str) or norm not in NORMS:
        raise ValueError(f"norm={brief(norm)} is not known; choose one of {', '.join(NORMS)}")


def per_example(value: float | Tensor, like: Tensor) -> Tensor:
    """Shape a float or values (N,) to broadcast against the batch ``like``: (N, 1, …, 1)."""
    ones = (1,) * (like.dim() - 1)
    if isinstance(value, Tensor):
        return value.to(like).reshape(-1, *ones)
    return torch.full((1, *ones), value, dtype=like.dtype, device=like.device)


def lengths(delta: Tensor, norm: str) -> Tensor:
    """Return ‖δ_i‖_p of every example, shape (N,); 0 for an empty example."""
    flat = delta.flatten(1)
    if flat.shape[1] == 0:
        return flat.new_zeros(len(flat))
    if norm == "linf":  # ten times as fast as vector_norm on a CPU
        return flat.abs().amax(1)
    length: Tensor = torch.linalg.vector_norm(flat, ord=_ORDER[norm], dim=1)
    return length


def unit(vector: Tensor, norm: str) -> Tensor:
    """Return v_i / ‖v_i‖_p, and 0 where v_i = 0.

    Each vector is divided by its largest entry first: the square of a float32 gradient of 1e-23 is
    zero, and a saturated loss gives such gradients.
    """
    tiny = torch.finfo(vector.dtype).tiny
    scaled = vector / per_example(lengths(vector, "linf").clamp_min(tiny), vector)
    if norm == "linf":
        return scaled
    return scaled / per_example(lengths(scaled, norm).clamp_min(tiny), vector)


def steepest(grad: Tensor, norm: str, *, fraction: float = 0.01) -> Tensor:
    """Return a direction of length 1 in ``norm`` along which the loss rises.

    L∞: sign(g). L2: g/‖g‖₂. L1: g restricted to its ``fraction`` largest entries (at least one),
    divided by its L1 length. The true steepest direction in L1 is a single coordinate, which climbs
    too slowly in many dimensions (Tramèr & Boneh 2019, arXiv 1904.13000, §4.1); with the
    magnitudes, repeated steps and projections settle on the best coordinates.
    """
    if norm == "linf":
        return grad.sign()
    if norm == "l2":
        return unit(grad, "l2")
    flat = grad.flatten(1)
    kept = max(1, round(fraction * flat.shape[1]))
    top = flat.abs().topk(min(kept, flat.shape[1]), dim=1).indices
    sparse = torch.zeros_like(flat).scatter(1, top, flat.gather(1, top))
    return unit(sparse, "l1").reshape(grad.shape)


def project_l1(delta: Tensor, radius: float | Tensor) -> Tensor:
    """Project on the L1 ball: argmin_z ‖z − δ‖₂ s.t. ‖z‖₁ ≤ radius.

    z = sign(δ) max(|δ| − θ, 0) with θ found by sorting (Duchi et al. 2008, fig. 1).
    """
    flat = delta.flatten(1)
    if flat.shape[1] == 0:
        return delta
    bound = per_example(radius, flat)
    size = flat.abs()
    ranked = size.sort(dim=1, descending=True).values
    count = torch.arange(1, flat.shape[1] + 1, device=flat.device, dtype=flat.dtype)
    theta = (ranked.cumsum(1) - bound) / count
    # thresholds are valid for the first sorted entries: the last valid threshold is θ
    last = (ranked > theta).sum(1, keepdim=True).clamp_min(1) - 1
    shrunk = flat.sign() * (size - theta.gather(1, last)).clamp_min(0)
    inside = size.sum(1, keepdim=True) <= bound
    return torch.where(inside, flat, shrunk).reshape(delta.shape)


def project_l1_box(delta: Tensor, radius: float | Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """Return argmin_z ‖z − δ‖₂ s.t. ‖z‖₁ ≤ radius, lo ≤ z ≤ hi, where lo ≤ 0 ≤ hi.

    z = sign(δ) min(max(|δ| − θ, 0), room), where room is the distance to the bound on that side. θ
    ≥ 0 is found by bisection to the last bit; Croce & Hein 2021 (arXiv 2103.01208), prop. 2.1, sort
    instead.
    """
    room = torch.where(delta > 0, hi, -lo).expand_as(delta).flatten(1)
    size = delta.abs().flatten(1)
    bound = per_example(radius, size)
    below = torch.zeros_like(size[:, :1])
    above = size.amax(1, keepdim=True) if size.shape[1] else below
    above = torch.where(size.clamp_max(room).sum(1, keepdim=True) <= bound, below, above)
    for _ in range(1 - round(math.log2(torch.finfo(delta.dtype).eps))):
        theta = (below + above) / 2
        over = (size - theta).clamp_min(0).clamp_max(room).sum(1, keepdim=True) > bound
        below, above = torch.where(over, theta, below), torch.where(over, above, theta)
    kept = (size - above).clamp_min(0).clamp_max(room)
    return kept.reshape(delta.shape).copysign(delta)


def project_ball(delta: Tensor, norm: str, radius: float | Tensor) -> Tensor:
    """Project every δ_i on {‖δ_i‖_p ≤ radius}, to the nearest point in L2."""
    if norm == "linf":
        bound = per_example(radius, delta)
        return delta.clamp(-bound, bound)
    if norm == "l1":
        return project_l1(delta, radius)
    length = per_example(lengths(delta, "l2"), delta)
    tiny = torch.finfo(delta.dtype).tiny
    return delta * (per_example(radius, delta) / length.clamp_min(tiny)).clamp_max(1.0)


def uniform_in_ball(
    x: Tensor, norm: str, radius: float | Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draw δ_i uniformly from {‖δ_i‖_p ≤ radius}, one for every example of ``x``."""
    bound = per_example(radius, x)
    device, dtype = x.device, x.dtype
    if norm == "linf":
        cube = torch.rand(x.shape, generator=generator, device=device, dtype=dtype)
        return (cube * 2 - 1) * bound
    direction = torch.randn(x.shape, generator=generator, device=device, dtype=dtype)
    if norm == "l1":  # exponential sizes with random signs are uniform on the L1 sphere
        sizes = torch.rand(x.shape, generator=generator, device=device, dtype=dtype)
        direction = direction.sign() * -torch.log1p(-sizes)
    depth = torch.rand(len(x), generator=generator, device=device, dtype=dtype)
    shrink = depth ** (1 / max(1, math.prod(x.shape[1:])))
    return unit(direction, norm) * per_example(shrink, x) * bound
