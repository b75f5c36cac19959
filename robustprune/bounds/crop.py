"""Restrict a network to the part on which a few positions of one feature map depend.

A bound of a neuron of a convolutional layer has coefficients 0 outside the neuron's receptive
field, so nothing else needs to be computed.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from robustprune.bounds.activations import Elementwise, Lines
from robustprune.bounds.affine import Affine, Region, Shape, cropped_bias, inside, moved
from robustprune.bounds.algebra import Interval
from robustprune.bounds.interval import Sweep
from robustprune.bounds.joined import Concat
from robustprune.bounds.pooling import MaxPool
from robustprune.bounds.products import Product
from robustprune.bounds.program import Node, Op


def cropped(known: Sweep, position: int, region: Region) -> Sweep:
    """Restrict a sweep to ``region`` of the node ``position`` and all positions it depends on.

    Nodes keep their positions in the program; nodes on which the region does not depend are empty.
    """
    nodes = known.program.nodes
    seen = {position: region}
    ops: dict[int, tuple[Op, list[Region]]] = {}
    links: dict[int, Node] = {0: nodes[0]}
    for k in range(position, 0, -1):
        if k not in seen:
            continue
        node = links[k] = known.program.folded(k) or nodes[k]
        shapes = [nodes[i].shape for i in node.inputs]
        # consumers come later in the program, so the region is final
        ops[k] = _cropped_op(node, seen[k], shapes)
        for i, field, shape in zip(node.inputs, ops[k][1], shapes, strict=True):
            valid = _valid(field, shape)
            seen[i] = _hull(seen[i], valid) if i in seen else valid
    part = replace(
        known,
        program=replace(known.program, nodes=[Node(None, (), (0,))] * len(nodes)),
        inputs=known.inputs.cropped(inside(seen[0])),
        intervals=list(known.intervals),
        slack=list(known.slack),
        floors=list(known.floors),
        relaxed={},
    )
    for k, own in seen.items():
        shape = (nodes[k].shape[0], *(hi - lo for lo, hi in own))
        part.intervals[k] = _cut(known.intervals[k], own)
        if known.rounding:
            slack, part.floors[k] = known.errors(k, folded=links[k].inputs != nodes[k].inputs)
            part.slack[k] = None if slack is None else _channels_last(slack[inside(own)])
        op, fields = ops.get(k, (None, []))
        moves = tuple((f, seen[i]) for f, i in zip(fields, links[k].inputs, strict=True))
        part.program.nodes[k] = Node(op, links[k].inputs, shape, moves)
        if isinstance(op, MaxPool):
            part.relaxed[k] = op.relax(_cut(known.intervals[nodes[k].inputs[0]], fields[0]))
        elif isinstance(op, Elementwise):
            part.relaxed[k] = _lines(known.relaxation(k), own)
        elif isinstance(op, Product):
            part.relaxed[k] = known.relaxation(k)
    return part


def _cropped_op(node: Node, region: Region, shapes: list[Shape]) -> tuple[Op, list[Region]]:
    """Return the operation for a region of its outputs, and the input regions that it needs."""
    op, whole = node.op, _whole(node.shape)
    assert op is not None
    if region == whole:
        return op, [_whole(shape) for shape in shapes]
    if isinstance(op, MaxPool):
        pool, field = op.cropped(region)
        return pool, [field]
    if isinstance(op, Affine) and op.crop is not None:
        layer, field = op.crop(region)
        return layer, [field]
    if isinstance(op, Product) or (isinstance(op, Concat) and op.dim != 1):
        return replace(op, moves=(region, whole)), [_whole(shape) for shape in shapes]
    if not isinstance(op, Affine):
        return op, [region] * len(shapes)
    whole_op = op.adjoint
    layer = replace(cropped_bias(op, region), adjoint=lambda A: whole_op(moved(A, region, whole)))
    return layer, [_whole(shape) for shape in shapes]


def _whole(shape: Shape) -> Region:
    return tuple((0, size) for size in shape[1:])


def _valid(field: Region, shape: Shape) -> Region:
    """Return the positions of a receptive field that are no padding, and at least one."""
    clipped = []
    for (lo, hi), size in zip(field, shape[1:], strict=True):
        first = min(max(lo, 0), size - 1)
        clipped.append((first, max(min(hi, size), first + 1)))
    return tuple(clipped)


def _hull(one: Region, other: Region) -> Region:
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


def _cut(box: Interval, region: Region) -> Interval:
    at = inside(region)
    return Interval(_channels_last(box.lo[at]), _channels_last(box.hi[at]))


def _lines(lines: Lines, region: Region) -> Lines:
    """Return the lines of the positions in a region; their choice is not needed there."""
    at = inside(region)

    def cut(t: Tensor) -> Tensor:
        return _channels_last(t[:, 0][at]).unsqueeze(1)

    return lines._replace(
        lower_slope=cut(lines.lower_slope),
        lower_shift=None if lines.lower_shift is None else cut(lines.lower_shift),
        upper_slope=cut(lines.upper_slope),
        upper_shift=cut(lines.upper_shift),
    )


def _channels_last(z: Tensor) -> Tensor:
    """Arrange (N, C, …) in memory as ``transposed`` arranges coefficients."""
    return z.movedim(1, -1).contiguous().movedim(-1, 1)
