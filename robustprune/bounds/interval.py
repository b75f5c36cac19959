"""Interval bound propagation: boxes around every intermediate value.

Gowal et al. 2018, arXiv 1810.12715.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from robustprune.bounds.activations import Elementwise, Lines
from robustprune.bounds.affine import Affine
from robustprune.bounds.algebra import Interval
from robustprune.bounds.input_set import InputSet
from robustprune.bounds.pooling import MaxPool
from robustprune.bounds.products import Product
from robustprune.bounds.program import Program
from robustprune.bounds.progress import UNTOLD, Progress
from robustprune.bounds.rounding import EPS, TINY


@dataclass
class Sweep:
    """What is known of every node for one batch. It is filled in the order of the nodes.

    Attributes:
        intervals: the box of each node; node 0 is the input.
        slack: for each node, the error of a step back through it, for each entry and per unit of
            its coefficient (see ``rounding`` and ``precision``), (N, …); None where the step is
            exact.
        floors: for each node and each example, (N,), what underflow adds to that error.
        progress: the progress of tightening bounds.
        lost: whether an example has a value that may overflow, (N,); nothing is known of such an
            example.
        relaxed: the lines or planes of nonlinear nodes, as far as they were needed.
        folds: slack and floors of folded nodes (``Program.folded``), as far as they were needed.
    """

    program: Program
    inputs: InputSet
    intervals: list[Interval] = field(default_factory=list)
    slack: list[Tensor | None] = field(default_factory=list)
    floors: list[Tensor] = field(default_factory=list)
    lost: Tensor | None = None
    progress: Progress = UNTOLD
    relaxed: dict[int, Any] = field(default_factory=dict)
    folds: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def rounding(self) -> bool:
        """Whether all bounds account for rounding errors, including those of the network itself."""
        return self.program.precision is not None

    def gamma(self, position: int) -> float:
        return self.program.gamma(position) if self.rounding else 0.0

    def errors(self, position: int, *, folded: bool) -> tuple[Tensor | None, Tensor]:
        """Return the slack and the floor of a node, or of the node and the one before it as one.

        See ``Program.folded``.
        """
        slack, floor = self.slack[position], self.floors[position]
        if not folded:
            return slack, floor
        if position in self.folds:
            return self.folds[position]
        node = self.program.nodes[position]
        before = node.inputs[0]
        assert isinstance(node.op, Affine)
        assert node.op.channels is not None
        earlier = self.slack[before]
        assert slack is not None
        assert earlier is not None
        factor = node.op.channels[0].abs().reshape(-1, *(1,) * (slack.dim() - 2))
        # the product of both weights may underflow, and is multiplied by coefficients
        start = self.intervals[self.program.nodes[before].inputs[0]].size.flatten(1).sum(1)
        lost = (4 * TINY * (1 + start)).reshape(-1, *(1,) * (slack.dim() - 1))
        # rounded up by more than the three operations need
        both = (slack + factor * earlier) * (1 + 8 * EPS) + lost
        self.folds[position] = both, floor + self.floors[before]
        return self.folds[position]

    def relaxation(self, position: int) -> Any:
        """Return the lines or planes of a nonlinear node, computed once over its input's
        interval."""
        if position not in self.relaxed:
            node = self.program.nodes[position]
            boxes = [self.intervals[source] for source in node.inputs]
            if isinstance(node.op, Product):
                self.relaxed[position] = node.op.relax(*boxes)
            else:
                assert isinstance(node.op, Elementwise | MaxPool)
                self.relaxed[position] = node.op.relax(boxes[0])
        return self.relaxed[position]

    def redrawn(self, position: int, choice: Tensor) -> Lines:
        """Return other lines for an elementwise node."""
        node = self.program.nodes[position]
        assert isinstance(node.op, Elementwise)
        return node.op.relax(self.intervals[node.inputs[0]], choice)

    def select(self, rows: Tensor) -> Sweep:
        """Return what is known of some examples, at the nodes that are not empty."""

        def pick(t: Tensor | None) -> Any:
            return t if t is None or len(t) == 1 else t[rows]

        part = replace(
            self,
            inputs=self.inputs.select(rows),
            intervals=list(self.intervals),
            slack=list(self.slack),
            floors=list(self.floors),
            lost=pick(self.lost),
            relaxed={k: type(drawn)(*map(pick, drawn)) for k, drawn in self.relaxed.items()},
            folds={},
        )
        for k, node in enumerate(self.program.nodes[: len(self.slack)]):
            if node.shape != (0,):
                part.intervals[k] = Interval(*map(pick, self.intervals[k]))
                part.slack[k], part.floors[k] = pick(self.slack[k]), pick(self.floors[k])
        return part


#: a function that returns better bounds for the entries of a node in the mask (N, …)
Tighten = Callable[[Sweep, int, Tensor], Interval]


def sweep(
    program: Program,
    inputs: InputSet,
    *,
    exact: Callable[[Sweep, int], Interval],
    tighten: Tighten | None = None,
    progress: Progress = UNTOLD,
) -> Sweep:
    """Bound every node from the input to the logits.

    Args:
        exact: a function that bounds a node that depends on the input affinely. It is used in L2
            and L1, where intervals only know the box around the ball, which is far larger. In L∞
            intervals are exact behind a first affine layer.
        tighten: a function that returns better bounds than intervals for the inputs of
            nonlinearities; it is called once for each.
    """
    known = Sweep(program, inputs, [inputs.box])
    if known.rounding:
        _start(known)
    ends = set() if inputs.norm == "linf" else program.ends_of_affine_part()
    done = set(ends) or program.exact_by_intervals()
    for position, node in enumerate(program.nodes[1:], start=1):
        assert node.op is not None
        sources = node.inputs if tighten is not None and node.nonlinear else ()
        for source in [k for k in dict.fromkeys(sources) if k not in done]:
            assert isinstance(node.op, Elementwise | MaxPool | Product)
            assert tighten is not None
            wanted = node.op.unsettled(known.intervals[source])
            known.progress = progress.part(*program.share(source))
            _meet(known, source, tighten(known, source, wanted))
            known.progress.done()
            done.add(source)
        boxes = [known.intervals[i] for i in node.inputs]
        known.intervals.append(node.op.interval(*boxes, gamma=known.gamma(position)))
        if known.rounding:
            _pay(known, position)
        if position in ends:
            _meet(known, position, exact(known, position))
    return known


def _start(known: Sweep) -> None:
    box = known.inputs.box
    known.slack.append(known.inputs.cast)
    known.floors.append(_floor(known, 0, box.size))
    known.lost = ~box.size.flatten(1).isfinite().all(1)


def _pay(known: Sweep, position: int) -> None:
    """Add the network's own rounding errors to a node's box, and store its errors for later."""
    program, node, box = known.program, known.program.nodes[position], known.intervals[position]
    precision, lost = program.precision, known.lost
    assert node.op is not None
    assert precision is not None
    assert lost is not None
    boxes = [known.intervals[i] for i in node.inputs]
    reach = [up + down + precision.reach for up, down in (b.parts() for b in boxes)]
    size = node.op.size(reach, boxes)
    error = node.op.deviation(precision, boxes, box, size)
    floor = _floor(known, position, *reach, box.size)
    slack = None if size is None else known.gamma(position) * size
    if error is not None:
        error = error + floor.reshape(-1, *(1,) * (error.dim() - 1))
        box = known.intervals[position] = Interval(box.lo - error, box.hi + error)
        slack = error if slack is None else slack + error
    known.slack.append(slack)
    known.floors.append(floor if size is None else floor + TINY * size.flatten(1).sum(1))
    known.lost = lost | ~(box.lo + box.hi).flatten(1).isfinite().all(1)


def _floor(known: Sweep, position: int, *sizes: Tensor) -> Tensor:
    """Return what underflow takes from float64 sums of products with values of these sizes,
    (N,)."""
    total = sum((z.flatten(1).sum(1) for z in sizes), start=sizes[0].new_zeros(()))
    return 4 * TINY * (known.program.terms(position) + total)


def _meet(known: Sweep, position: int, new: Interval) -> None:
    """Keep the better of the old and the new bounds."""
    old = known.intervals[position]
    # fmax and fmin ignore NaN, which an overflow in a linear bound may cause
    lo, hi = torch.fmax(old.lo, new.lo), torch.fmin(old.hi, new.hi)
    known.intervals[position] = Interval(lo, hi if known.rounding else torch.maximum(lo, hi))
