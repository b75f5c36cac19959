"""CROWN: linear bounds that are propagated back from the logits, or from any neuron, to the input.

Zhang et al. 2018, arXiv 1811.00866.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from robustprune.bounds.activations import Elementwise
from robustprune.bounds.affine import Affine, inside, moved
from robustprune.bounds.algebra import Interval, dot, least_over_box
from robustprune.bounds.crop import cropped
from robustprune.bounds.interval import Sweep
from robustprune.bounds.pooling import MaxPool
from robustprune.bounds.products import Product
from robustprune.bounds.rounding import EPS

#: the entries of the largest tensor for bounds (128 MiB); about eight exist at a time
CHUNK = 2**24
#: the least number of neurons that are bounded at once, if a feature map has as many
ROWS = 256
#: groups of examples are divided while more than WASTE times the wanted entries would be bounded,
#: and while they have SEVERAL examples
WASTE, SEVERAL = 1.15, 16


def least(
    known: Sweep,
    A: Tensor,
    start: int,
    *,
    stop: int = 0,
    choices: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Return a lower bound of ⟨A_ns, z_start⟩ over the input set, (N, S).

    It goes back from node to node and replaces z_k by bounds in terms of its inputs, until only the
    input is left (arXiv 1811.00866, Eq. 13), or the node ``stop``, through which every path from
    ``start`` must lead.

    Args:
        A: (N or 1, S, *shape of the node start).
        choices: for some nodes, the choice of other lines (see ``activations.Lines``).
    """
    return _descended(known, {start: A}, A.new_zeros(()), start, stop=stop, choices=choices)


def _descended(
    known: Sweep,
    waiting: dict[int, Tensor],
    total: Tensor,
    start: int,
    *,
    stop: int = 0,
    choices: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Do the work of ``least``.

    Args:
        waiting: the coefficients of some nodes up to ``start``, which are replaced.
        total: a constant that is added, (N, S).
    """
    nodes = known.program.nodes
    for position in range(start, stop, -1):
        if position not in waiting:
            continue
        A, node = waiting.pop(position), nodes[position]
        parts, total = _back(known, position, A, total, choices)
        if node.moves is not None:
            parts = [moved(part, *move) for part, move in zip(parts, node.moves, strict=True)]
        for source, part in zip(node.inputs, parts, strict=True):
            if source in waiting:
                part = waiting[source] + part
                if known.rounding:
                    total = total - EPS * dot(part.abs(), known.intervals[source].size)
                    total = _floored(known, source, total)
            waiting[source] = part
    A = waiting[stop]
    gamma = known.gamma(stop)
    if stop == 0:
        total = _paid(known, 0, A, total) + known.inputs.least(A, gamma)
    else:
        total = total + least_over_box(A, known.intervals[stop], gamma)
        total = _floored(known, stop, total)
    if known.lost is None:
        return total
    # nothing is known if a value overflows, in the network or here
    return total.where(total.isfinite() & ~known.lost[:, None], -torch.inf)


def _back(
    known: Sweep,
    position: int,
    A: Tensor,
    total: Tensor,
    choices: Mapping[int, Tensor] | None,
) -> tuple[list[Tensor], Tensor]:
    """Replace a node by bounds in terms of its inputs: return their coefficients, and the total."""
    op = known.program.nodes[position].op
    assert op is not None
    choice = None if choices is None else choices.get(position)
    if isinstance(op, Elementwise) and known.rounding and choice is None:
        size, slack = A.abs(), known.slack[position]
        part, u, v = op.step(A, size, known.relaxation(position))
        total = total + dot(A, u) - dot(size, v if slack is None else v + slack)
        return [part], _floored(known, position, total)
    if isinstance(op, Elementwise | MaxPool | Product):
        drawn: Any = (
            known.relaxation(position) if choice is None else known.redrawn(position, choice)
        )
        parts, const = op.backward(A, drawn)
    else:
        parts, const = op.backward(A)
    return parts, _paid(known, position, A, total if const is None else total + const)


def _paid(known: Sweep, position: int, A: Tensor, total: Tensor) -> Tensor:
    """Subtract the possible error of ⟨A_ns, z⟩ after a step back through the node."""
    if not known.rounding:
        return total
    slack = known.slack[position]
    if slack is not None:
        total = total - dot(A.abs(), slack)
    return _floored(known, position, total)


def _floored(known: Sweep, position: int, total: Tensor) -> Tensor:
    return total - known.floors[position][:, None] if known.rounding else total


def least_in_parts(
    known: Sweep,
    A: Tensor,
    start: int,
    *,
    stop: int = 0,
    choices: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Call ``least`` for as many rows at a time as CHUNK allows."""
    step = max(1, CHUNK // max(1, len(known.inputs.x) * known.program.widest(start)))
    return torch.cat(
        [
            least(known, part, start, stop=stop, choices=choices)
            for part in torch.split(A, step, dim=1)
        ],
        dim=1,
    )


def least_by_intervals(known: Sweep, A: Tensor) -> Tensor:
    """Return lower bounds like ``least``, but from intervals before the last affine layers.

    Folding these layers into A bounds differences of logits directly (arXiv 1810.12715, §3).
    """
    nodes, stop = known.program.nodes, known.program.output
    while isinstance(nodes[stop].op, Affine):
        stop = nodes[stop].inputs[0]
    return least_in_parts(known, A, known.program.output, stop=stop)


def tightened(known: Sweep, position: int, wanted: Tensor) -> Interval:
    """Return CROWN bounds of the wanted entries of a node; the others keep their interval.

    Feature maps are bounded a few positions at a time, in the part of the network on which these
    depend.

    Args:
        wanted: (N, *shape), bool.
    """
    box = known.intervals[position]
    places = wanted.shape[2:]
    if not places:
        return _tightened(known, position, wanted)
    lo, hi = box.lo.clone(), box.hi.clone()
    rows = wanted.shape[1] * (1 if bool(wanted.all()) else len(wanted))
    side = max(1, math.ceil((ROWS / max(rows, 1)) ** (1 / len(places))))
    steps = ([(at, min(at + side, n)) for at in range(0, n, side)] for n in places)
    regions, whole = list(product(*steps)), known.progress
    for number, region in enumerate(regions):
        at = inside(region)
        known.progress = whole.step(number, len(regions))
        if bool(wanted[at].any()):
            lo[at], hi[at] = _in_groups(cropped(known, position, region), position, wanted[at])
        known.progress.done()
    known.progress = whole
    return Interval(lo, hi)


def _in_groups(known: Sweep, position: int, wanted: Tensor) -> Interval:
    """Call ``_tightened`` for examples with about the same number of wanted entries at a time.

    In one call, every example has as many coefficients as the one with the most wanted entries.
    """
    counts = wanted.flatten(1).sum(1)
    needed, taken = int(counts.sum()), len(counts) * int(counts.max())
    if len(counts) < SEVERAL or not known.rounding or taken <= WASTE * needed:
        return _tightened(known, position, wanted)
    box, whole = known.intervals[position], known.progress
    lo, hi = box.lo.clone(), box.hi.clone()
    order = counts.argsort(stable=True)
    for number, rows in enumerate(order.chunk(2)):
        if bool(counts[rows].any()):
            part = known.select(rows)
            part.progress = whole.step(number, 2)
            lo[rows], hi[rows] = _in_groups(part, position, wanted[rows])
    return Interval(lo, hi)


def _tightened(known: Sweep, position: int, wanted: Tensor) -> Interval:
    box = known.intervals[position]
    flat = wanted.flatten(1)
    most = int(flat.sum(1).max()) if flat.numel() else 0
    if most == 0:
        return box
    if bool(flat.all()):  # one list for all examples
        order = torch.arange(most, device=flat.device).unsqueeze(0)
    else:  # every example lists its own entries, padded by others, whose bounds are as valid
        order = flat.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    lo, hi = box.lo.flatten(1), box.hi.flatten(1)
    step = max(1, CHUNK // (2 * len(flat) * known.program.widest(position)))
    for begin in range(0, most, step):
        index = order[:, begin : begin + step]
        below, above = _both_sides(known, position, index).chunk(2, dim=1)
        rows = index.expand(below.shape)
        lo, hi = lo.scatter(1, rows, below), hi.scatter(1, rows, -above)
        known.progress.part(0, min(begin + step, most) / most).done()
    return Interval(lo.reshape(box.lo.shape), hi.reshape(box.hi.shape))


def _both_sides(known: Sweep, position: int, index: Tensor) -> Tensor:
    """Return lower bounds of the entries ``index`` of a flattened node, and of their negatives.

    Args:
        index: (N or 1, M).

    Returns:
        (N, 2M).
    """
    node, box = known.program.nodes[position], known.intervals[position]
    if isinstance(node.op, Affine) and node.op.rows is not None and math.prod(node.shape[1:]) == 1:
        return _from_rows(known, position, node.op.rows(index), index)
    one = torch.zeros(*index.shape, math.prod(node.shape), dtype=box.lo.dtype, device=index.device)
    one.scatter_(2, index.unsqueeze(2), 1.0)
    A = torch.cat((one, -one), dim=1).reshape(len(one), -1, *node.shape)
    return least(known, A, position)


def _from_rows(known: Sweep, position: int, rows: Tensor, index: Tensor) -> Tensor:
    """Do the work of ``_both_sides`` from the rows of W, (N or 1, M, *in), without a product."""
    node, op = known.program.nodes[position], known.program.nodes[position].op
    assert isinstance(op, Affine)
    rows = rows.movedim(2, -1)  # the order in memory
    A = torch.cat((rows, -rows), dim=1).movedim(-1, 2)
    if node.moves is not None:
        A = moved(A, *node.moves[0])
    total = A.new_zeros(())
    if op.bias is not None:
        bias = op.bias.flatten()[index]
        total = torch.cat((bias, -bias), dim=1)
    slack = known.slack[position] if known.rounding else None
    if slack is not None:
        slack = slack.flatten(1)
        lost = slack.gather(1, index.expand(len(slack), -1))
        total = total - torch.cat((lost, lost), dim=1)
    total = _floored(known, position, total)
    return _descended(known, {node.inputs[0]: A}, total, position - 1)


def tightened_all(known: Sweep, position: int) -> Interval:
    """Call ``tightened`` for every entry, which is exact if the node depends on the input
    affinely."""
    box = known.intervals[position]
    return tightened(known, position, torch.ones_like(box.lo, dtype=torch.bool))
