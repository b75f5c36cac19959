"""Proposals of the Square attack, for inputs of any shape."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attacks.geometry import lengths, per_example, unit
from attacks.threat import ThreatModel

Window = tuple[slice, ...]


def signs(shape: tuple[int, ...], x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return random ±1 in the dtype and on the device of x."""
    coin = torch.randint(0, 2, shape, generator=generator, device=x.device)
    return (2 * coin - 1).to(x.dtype)


def window_side(x: Tensor, share: float, *, least: int) -> int:
    """Return the side of a cube, over the dimensions after the channels, with this ``share``."""
    space = x.shape[2:]
    side = round(math.pow(share * space.numel(), 1 / len(space)))
    return min(max(side, least), min(space))


def window(x: Tensor, side: int, generator: torch.Generator | None) -> Window:
    """Return a random cube with this side, over all examples and channels."""
    corners = [
        int(torch.randint(0, size - side + 1, (), generator=generator, device=x.device))
        for size in x.shape[2:]
    ]
    return (slice(None), slice(None), *(slice(corner, corner + side) for corner in corners))


def pyramid(shape: tuple[int, ...], x: Tensor, power: int) -> Tensor:
    """Return Σ_{k ≥ r} (k + 1)^-power at r steps from the centre (eq. 2, in any dimension)."""
    distance = torch.zeros(shape, device=x.device)
    for dim, size in enumerate(shape):
        steps = (torch.arange(size, device=x.device) - (size - 1) / 2).abs().floor()
        distance = torch.maximum(distance, steps.reshape(-1, *(1,) * (len(shape) - dim - 1)))
    rings = torch.arange(1, int(distance.max()) + 2, device=x.device, dtype=x.dtype)
    return (rings**-power).flip(0).cumsum(0).flip(0)[distance.long()]


def two_pyramids(side: int, x: Tensor, power: int, generator: torch.Generator | None) -> Tensor:
    """Return a window with two halves of opposite sign, cut along a random dimension; length 1."""
    space = x.dim() - 2
    if side == 1:
        return torch.ones((1,) * space, device=x.device, dtype=x.dtype)
    rest = (side,) * (space - 1)
    up, down = pyramid((side // 2, *rest), x, power), pyramid((side - side // 2, *rest), x, power)
    both = torch.cat((up, -down))
    cut = int(torch.randint(0, space, (), generator=generator, device=x.device))
    return both.movedim(0, cut)


def first_point(x: Tensor, threat: ThreatModel, generator: torch.Generator | None) -> Tensor:
    """Return stripes of ±ε in L∞; in L2 and L1, a grid of windows with total length ε."""
    eps = per_example(threat.eps, x)
    if x.dim() == 2:
        delta = signs(tuple(x.shape), x, generator)
        return x + eps * (delta if threat.norm == "linf" else unit(delta, threat.norm))
    if threat.norm == "linf":
        stripes = (x.shape[0], x.shape[1], *(1,) * (x.dim() - 3), x.shape[-1])
        return x + eps * signs(stripes, x, generator)
    side = max(min(x.shape[2:]) // 5, 1)
    power = 2 if threat.norm == "l2" else 4
    tile = two_pyramids(side, x, power, generator)
    grid = [size // side for size in x.shape[2:]]
    coins = signs((x.shape[0], x.shape[1], *grid), x, generator)
    for dim in range(2, x.dim()):
        coins = coins.repeat_interleave(side, dim)
    delta = torch.zeros_like(x)
    covered = (slice(None), slice(None), *(slice(0, count * side) for count in grid))
    delta[covered] = coins * tile.repeat(*grid)
    return x + eps * unit(delta, threat.norm)


def next_point(
    x: Tensor,
    x_best: Tensor,
    threat: ThreatModel,
    share: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Return the proposal that follows ``x_best``, before projection."""
    if x.dim() == 2:
        return _columns(x, x_best, threat, share, generator)
    if threat.norm != "linf":
        return _exchange(x, x_best, threat, share, generator)
    chosen = window(x, window_side(x, share, least=1), generator)
    colour = signs((*x.shape[:2], *(1,) * (x.dim() - 2)), x, generator)
    x_new = x_best.clone()
    x_new[chosen] += 2 * per_example(threat.eps, x) * colour
    return x_new


def _columns(
    x: Tensor,
    x_best: Tensor,
    threat: ThreatModel,
    share: float,
    generator: torch.Generator | None,
) -> Tensor:
    """For tables, draw new signs on a random subset of the columns of every example."""
    size = max(1, round(share * x.shape[1]))
    order = torch.rand(x.shape, generator=generator, device=x.device).argsort(1)
    chosen = order < size
    coins = signs(tuple(x.shape), x, generator)
    eps = per_example(threat.eps, x)
    if threat.norm == "linf":
        return torch.where(chosen, x_best + 2 * eps * coins, x_best)
    # the chosen columns share their length and the unused part of ε, with new signs
    delta = x_best - x
    order_p = 2 if threat.norm == "l2" else 1
    held = torch.where(chosen, delta.abs() ** order_p, 0.0).sum(1, keepdim=True)
    spare = (eps**order_p - (delta.abs() ** order_p).sum(1, keepdim=True)).clamp_min(0)
    # length moves away from a random half of them, so that columns can return to zero
    receiving = chosen & (order < max(1, size // 2))
    each = ((held + spare) / receiving.sum(1, keepdim=True)) ** (1 / order_p)
    return x + torch.where(receiving, coins * each, torch.where(chosen, 0.0, delta))


def _exchange(
    x: Tensor,
    x_best: Tensor,
    threat: ThreatModel,
    share: float,
    generator: torch.Generator | None,
) -> Tensor:
    """In L2 and L1, clear one window; another gets its length and the unused part of ε.

    This is alg. 3 of the paper, with one part per channel.
    """
    order = 2 if threat.norm == "l2" else 1
    side = window_side(x, share, least=3)
    side = min(side + 1 - side % 2, *x.shape[2:])
    gaining, losing = window(x, side, generator), window(x, side, generator)
    delta = x_best - x
    space = tuple(range(2, x.dim()))

    def mass(part: Tensor) -> Tensor:
        return (part.abs() ** order).sum(space, keepdim=True)

    cleared = delta.clone()
    cleared[gaining], cleared[losing] = 0.0, 0.0
    eps = per_example(threat.eps, x)
    spare = eps**order - per_example(lengths(delta, threat.norm), x) ** order
    budget = mass(delta) - mass(cleared) + spare.clamp_min(0) / x.shape[1]
    shape = two_pyramids(side, x, 2 if order == 2 else 4, generator)
    shape = shape / (shape.abs() ** order).sum() ** (1 / order)
    old = delta[gaining]
    old_length = mass(old) ** (1 / order)
    tiny = torch.finfo(x.dtype).tiny
    new = shape * signs((*x.shape[:2], *(1,) * len(space)), x, generator)
    new = new + old / old_length.clamp_min(tiny)
    new = new / (mass(new) ** (1 / order)).clamp_min(tiny) * budget.clamp_min(0) ** (1 / order)
    cleared[gaining] = new
    return x + cleared * (eps / per_example(lengths(cleared, threat.norm).clamp_min(tiny), x))
