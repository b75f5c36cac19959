"""Linear bounds in terms of the input, carried forward behind the first nonlinearity.

Behind one nonlinearity, a node lies between two affine functions of the input. Computed forward,
they cost two passes for each entry of the input. Computed backward, as in ``linear``, they cost a
pass for each neuron. So forward is cheaper where the input is small, such as a time series before
thousands of neurons. The bounds are the same, as long as only one layer behind the nonlinearity
mixes entries.

With z₁ = J x + c, and lines α z₁ + t ≤ f(z₁) ≤ s z₁ + t', the value f(z₁) is within r of m, both
affine in x: m = (α + s)/2 z₁ + (t + t')/2 and r = (s − α)/2 z₁ + (t' − t)/2. A layer W then gives
W m ± |W| r.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustprune.bounds.activations import Elementwise, Lines
from robustprune.bounds.affine import Affine, Map, Region, inside
from robustprune.bounds.algebra import Interval
from robustprune.bounds.interval import Sweep
from robustprune.bounds.precision import MARGIN
from robustprune.bounds.program import Program
from robustprune.bounds.rounding import TINY

#: forward is used where a node has at least this number of entries for each entry of the input
ENTRIES = 8
#: the number of neighbouring entries of the input that are carried forward at once
NEIGHBOURS = 8


def pays(program: Program, position: int) -> bool:
    """Return whether bounds of this node are as good forward as backward, and cheaper."""
    found = _chain(program, position)
    if found is None:
        return False
    nodes, after = program.nodes, found[2]
    mixing = sum(op.mixing for k in after if isinstance(op := nodes[k].op, Affine))
    inputs, entries = (math.prod(nodes[k].shape) for k in (0, position))
    return mixing <= 1 and ENTRIES * inputs <= entries


def forward(known: Sweep, position: int) -> Interval:
    """Return bounds of a node for which ``pays`` holds, each (N, *shape)."""
    found = _chain(known.program, position)
    assert found is not None
    before, turn, after = found
    inputs = known.inputs
    size = math.prod(inputs.x.shape[1:])
    J = torch.eye(size, dtype=inputs.x.dtype, device=inputs.x.device)
    J = J.reshape(size, *inputs.x.shape[1:])
    c = torch.zeros_like(J[:1])
    for k in before:
        op = _affine(known.program, k)
        J, c = op.linear(J), op.clean(c)
    errors = _errors(known, before, turn, after)
    lines, gamma = known.relaxation(turn), known.gamma(0)
    steps = _steps(known.program, after)
    blocks = _blocks(J, steps)
    lo, hi = [], []
    for n in range(len(inputs.x)):
        own = inputs.select(slice(n, n + 1))
        middle, radius = _between(J, c, lines, n)
        below, above = _carried(middle, radius, steps, blocks)
        A = torch.stack((below[:-1].flatten(1).T, above[:-1].flatten(1).T))
        least = own.least(A.reshape(1, -1, *inputs.x.shape[1:]), gamma)
        ends = least.reshape(2, *below.shape[1:]) + torch.stack((below[-1], above[-1]))
        lo.append(ends[0] - errors[n])
        hi.append(errors[n] - ends[1])
    low, high, known_at = torch.stack(lo), torch.stack(hi), _usable(known, errors)
    return Interval(low.where(known_at, -torch.inf), high.where(known_at, torch.inf))


class Block(NamedTuple):
    """Some entries of the input, and where what they reach lies.

    Attributes:
        rows: these entries.
        region: where they are not 0 behind the nonlinearity; None for everywhere.
        maps: the maps of each step, of the coefficients and of their absolute values.
        result: the region of the results.
    """

    rows: slice
    region: Region | None
    maps: list[tuple[Map, Map]]
    result: Region | None


def _steps(program: Program, after: Sequence[int]) -> list[Affine]:
    """Return the operations behind the nonlinearity; a batch norm is a part of its convolution."""
    found: list[Affine] = []
    for k in after:
        folded = program.folded(k)
        if folded is not None and found:
            assert isinstance(folded.op, Affine)
            found[-1] = folded.op
        else:
            found.append(_affine(program, k))
    return found


def _blocks(J: Tensor, steps: Sequence[Affine]) -> list[Block]:
    """Divide the entries of the input into neighbours, which reach only a few positions if all
    operations are local. The last block is the constant.

    Args:
        J: (entries, …), how the input of the nonlinearity depends on each of them.
    """
    everywhere = [(op.linear, op.absolute) for op in steps]
    if J.dim() < 3 or any(op.image is None for op in steps):
        return [Block(slice(0, len(J)), None, everywhere, None)]
    found = []
    for begin in range(0, len(J), NEIGHBOURS):
        rows = slice(begin, min(begin + NEIGHBOURS, len(J)))
        region = result = _support(J[rows])
        maps = []
        for op in steps:
            assert op.image is not None
            linear, absolute, result = op.image(result)
            maps.append((linear, absolute))
        found.append(Block(rows, region, maps, result))
    return found


def _support(J: Tensor) -> Region:
    """Return the smallest region outside of which all of J, (M, C, …), is 0, with at least one
    position."""
    used = (J != 0).any(0).any(0)
    found = []
    for dim in range(used.dim()):
        others = [d for d in range(used.dim()) if d != dim]
        at = (used.any(others) if others else used).nonzero()[:, 0]
        found.append((int(at[0]), int(at[-1]) + 1) if len(at) else (0, 1))
    return tuple(found)


def _carried(
    middle: Tensor, radius: Tensor, steps: Sequence[Affine], blocks: Sequence[Block]
) -> tuple[Tensor, Tensor]:
    """Return W m − |W| r and −W m − |W| r behind all steps; the constant is the last row."""
    constant, reach = middle[-1:], radius[-1:]
    for op in steps:
        constant, reach = op.clean(constant), op.absolute(reach)
    below = middle.new_zeros(len(middle), *constant.shape[1:])
    above = torch.zeros_like(below)
    below[-1:], above[-1:] = constant - reach, -constant - reach
    for block in blocks:
        z, r = middle[block.rows], radius[block.rows]
        if block.region is not None:
            z, r = z[inside(block.region)], r[inside(block.region)]
        for linear, absolute in block.maps:
            z, r = linear(z), absolute(r)
        at: Any = (block.rows,) if block.result is None else (block.rows, *inside(block.result)[1:])
        below[at], above[at] = z - r, -z - r
    return below, above


def _chain(program: Program, position: int) -> tuple[list[int], int, list[int]] | None:
    """Return the affine nodes before the only nonlinearity on the way to a node, that
    nonlinearity, and the affine nodes up to the node; None for any other program."""
    parts: list[list[int]] = [[], []]
    turn, at = 0, position
    while at:
        node = program.nodes[at]
        if isinstance(node.op, Affine):
            parts[turn > 0].insert(0, at)
        elif isinstance(node.op, Elementwise) and not turn:
            turn = at
        else:
            return None
        (at,) = node.inputs
    return (parts[1], turn, parts[0]) if turn else None


def _affine(program: Program, position: int) -> Affine:
    op = program.nodes[position].op
    assert isinstance(op, Affine)
    return op


def _between(J: Tensor, c: Tensor, lines: Lines, n: int) -> tuple[Tensor, Tensor]:
    """Return m and r of one example behind the nonlinearity, with their constants as the last
    row."""
    slopes = lines.lower_slope[n], lines.upper_slope[n]
    upper = lines.upper_shift[n]
    lower = torch.zeros_like(upper) if lines.lower_shift is None else lines.lower_shift[n]
    halves = [(slopes[1] + sign * slopes[0]) / 2 for sign in (1, -1)]
    shifts = [(upper + sign * lower) / 2 for sign in (1, -1)]
    middle, radius = (
        torch.cat((half * J, half * c + shift)) for half, shift in zip(halves, shifts, strict=True)
    )
    return middle, radius


def _errors(known: Sweep, before: Sequence[int], turn: int, after: Sequence[int]) -> Tensor:
    """Bound the errors of the network and of ``forward`` itself at the last node, (N, …).

    The slack of each node is carried forward by |W|. The products of ``forward`` have a relative
    error of at most the sum of all γ, in terms of the size of everything that is added up (see
    ``rounding``).
    """
    program = known.program
    precision = program.precision
    assert precision is not None
    size, error = known.intervals[0].size + precision.reach, known.slack[0]
    wide = (-1, *(1,) * (size.dim() - 1))
    lost = 4 * TINY * (1 + size.flatten(1).sum(1))
    error = lost.reshape(wide) if error is None else error + lost.reshape(wide)
    error, gamma = error.expand_as(size), 0.0
    for k in (*before, turn, *after):
        op = program.nodes[k].op
        if isinstance(op, Affine):
            size, error = op.absolute(size), op.absolute(error)
            size = size if op.bias_size is None else size + op.bias_size
        else:
            lines = known.relaxation(k)
            slope = torch.maximum(lines.lower_slope.abs(), lines.upper_slope.abs())[:, 0]
            shift = lines.upper_shift.abs()[:, 0]
            if lines.lower_shift is not None:
                shift = torch.maximum(shift, lines.lower_shift.abs()[:, 0])
            size, error = slope * size + shift, slope * error
        slack = known.slack[k]
        error = error if slack is None else error + slack
        floor = known.floors[k] + lost * program.terms(k)
        error = error + floor.reshape(-1, *(1,) * (error.dim() - 1))
        gamma += known.gamma(k)
    return MARGIN * (error + 2 * gamma * size)


def _usable(known: Sweep, errors: Tensor) -> Tensor:
    """Return where something is known, because nothing overflows."""
    assert known.lost is not None
    return errors.isfinite() & ~known.lost.reshape(-1, *(1,) * (errors.dim() - 1))
