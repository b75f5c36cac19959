"""Interval bound propagation: boxes around every intermediate value.

Gowal et al. 2018, arXiv 1810.12715.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robustprune.bounds.activations import Elementwise, Lines
from robustprune.bounds.algebra import Interval
from robustprune.bounds.input_set import InputSet
from robustprune.bounds.pooling import MaxPool
from robustprune.bounds.program import Program


@dataclass
class Sweep:
    """What is known of every node around one batch, filled in order.

    Attributes:
        intervals: box of each node; node 0 is the input's.
        sizes: of each node, for the rounding error of a step back through it (see ``rounding``);
            None where such a step is exact.  Only with ``rounding``.
        rounding: whether all bounds pay for rounding errors.
        relaxed: lines or planes of nonlinear nodes, as far as they were asked for.
    """

    program: Program
    inputs: InputSet
    rounding: bool
    intervals: list[Interval] = field(default_factory=list)
    sizes: list[Tensor | None] = field(default_factory=list)
    relaxed: dict[int, Any] = field(default_factory=dict)

    def gamma(self, position: int) -> float:
        return self.program.gamma(position) if self.rounding else 0.0

    def relaxation(self, position: int) -> Any:
        """Lines or planes of a nonlinear node, drawn once over the interval of its input."""
        if position not in self.relaxed:
            node = self.program.nodes[position]
            assert isinstance(node.op, Elementwise | MaxPool)
            self.relaxed[position] = node.op.relax(self.intervals[node.inputs[0]])
        return self.relaxed[position]

    def redrawn(self, position: int, choice: Tensor) -> Lines:
        """Other lines for an elementwise node."""
        node = self.program.nodes[position]
        assert isinstance(node.op, Elementwise)
        return node.op.relax(self.intervals[node.inputs[0]], choice)


#: Returns better bounds of a node, of which those in the mask (N, …) are wanted
Tighten = Callable[[Sweep, int, Tensor], Interval]


def sweep(
    program: Program,
    inputs: InputSet,
    *,
    rounding: bool,
    exact: Callable[[Sweep, int], Interval],
    tighten: Tighten | None = None,
) -> Sweep:
    """Bound every node from the input to the logits.

    Args:
        exact: bounds of a node that depends on the input affinely.  Used in L2 and L1, where
            intervals only know the box around the ball, which is far larger; in L∞ they are
            exact behind a first affine layer by themselves.
        tighten: better bounds for the inputs of nonlinearities than intervals give; each is asked
            for once.
    """
    known = Sweep(program, inputs, rounding, [inputs.box], [None])
    ends = set() if inputs.norm == "linf" else program.ends_of_affine_part()
    done = set(ends) or program.exact_by_intervals()
    for position, node in enumerate(program.nodes[1:], start=1):
        assert node.op is not None
        if tighten is not None and node.nonlinear and node.inputs[0] not in done:
            assert isinstance(node.op, Elementwise | MaxPool)
            source = node.inputs[0]
            wanted = node.op.unsettled(known.intervals[source])
            _meet(known, source, tighten(known, source, wanted))
            done.add(source)
        boxes = [known.intervals[i] for i in node.inputs]
        known.intervals.append(node.op.interval(*boxes, gamma=known.gamma(position)))
        known.sizes.append(node.op.size(*(box.size for box in boxes)) if rounding else None)
        if position in ends:
            _meet(known, position, exact(known, position))
    return known


def _meet(known: Sweep, position: int, new: Interval) -> None:
    """Keep the better of old and new bounds."""
    old = known.intervals[position]
    # fmax and fmin pass over NaN, which overflow in a linear bound may leave
    lo, hi = torch.fmax(old.lo, new.lo), torch.fmin(old.hi, new.hi)
    known.intervals[position] = Interval(lo, hi if known.rounding else torch.maximum(lo, hi))
