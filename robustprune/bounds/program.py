"""The operations between input and logits as a list, ready to be bounded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustprune.bounds.activations import Elementwise
from robustprune.bounds.affine import Affine, Region, Shape
from robustprune.bounds.joined import Concat, Sum
from robustprune.bounds.pooling import MaxPool
from robustprune.bounds.precision import Precision
from robustprune.bounds.products import Product
from robustprune.bounds.rounding import gamma

Op = Affine | Sum | Concat | Elementwise | MaxPool | Product


class Node(NamedTuple):
    """One operation of a program.

    Attributes:
        op: the operation, or None for the input of the network.
        inputs: the positions of its inputs in the program.
        shape: the shape for one example.
        moves: only in a crop: for each input, the region of the coefficients that come back and the
            region in which the input is known.
    """

    op: Op | None
    inputs: tuple[int, ...]
    shape: Shape
    moves: tuple[tuple[Region, Region], ...] | None = None

    @property
    def nonlinear(self) -> bool:
        return isinstance(self.op, Elementwise | MaxPool | Product)


class Value(NamedTuple):
    """A value that depends on the input: its node, and its value for the sample batch."""

    node: int
    sample: Tensor


@dataclass
class Program:
    """Nodes in an order in which each comes after its inputs; node 0 is the input.

    Attributes:
        dtype: the dtype of all weights and bounds.
        batch_statistics: whether batch norms in train mode use the sample's statistics.
        precision: the precision of the network, for certificates; None in training.
        output, logits: the node of the logits, and their values for the sample.
    """

    sample: Tensor
    batch_statistics: bool = False
    precision: Precision | None = None
    nodes: list[Node] = field(default_factory=list)
    output: int = 0
    logits: Tensor | None = None
    _folds: dict[int, Node | None] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        sample: Tensor,
        *,
        batch_statistics: bool = False,
        precision: Precision | None = None,
    ) -> Program:
        """Return a program that consists of the input only."""
        nodes = [Node(None, (), tuple(sample.shape[1:]))]
        return cls(sample, batch_statistics, precision, nodes)

    @property
    def dtype(self) -> torch.dtype:
        return self.sample.dtype

    @property
    def input(self) -> Value:
        return Value(0, self.sample)

    def add(self, op: Op, *inputs: Value) -> Value:
        """Append an operation on these values."""
        out = op.clean(*(value.sample for value in inputs))
        shape = tuple(out.shape[1:])
        self.nodes.append(Node(op, tuple(value.node for value in inputs), shape))
        return Value(len(self.nodes) - 1, out)

    def cast(self, tensor: Tensor | None) -> Any:
        """Return a weight in the program's dtype; None stays None.

        Raises:
            ValueError: it is complex, or of a class of its own, whose operations may do anything.
        """
        if tensor is None:
            return None
        if type(tensor) not in (Tensor, nn.Parameter):
            raise ValueError(
                f"weights of class {type(tensor).__name__} have no bounds, because operations on "
                "them need not be those of torch; turn them into plain tensors"
            )
        if tensor.is_complex():
            raise ValueError(f"weights of dtype {tensor.dtype} have no bounds; use real ones")
        # gradients of slopes alone must not build a graph to the weights
        return (tensor if torch.is_grad_enabled() else tensor.detach()).to(self.dtype)

    def values(self, x: Tensor) -> list[Tensor]:
        """Return the value of each node for the inputs x, in this program's own arithmetic."""
        found = [x]
        for node in self.nodes[1:]:
            assert node.op is not None
            found.append(node.op.clean(*(found[i] for i in node.inputs)))
        return found

    def folded(self, position: int) -> Node | None:
        """Return a node that multiplies channels by numbers, such as a batch norm, together with
        the affine map before it, as one node; None where that is not possible."""
        if position not in self._folds:
            self._folds[position] = self._fold(position)
        return self._folds[position]

    def _fold(self, position: int) -> Node | None:
        node = self.nodes[position]
        if not isinstance(node.op, Affine) or node.op.channels is None or self.precision is None:
            return None
        before = self.nodes[node.inputs[0]]
        uses = sum(other.inputs.count(node.inputs[0]) for other in self.nodes)
        if uses > 1 or not isinstance(before.op, Affine) or before.op.scaled is None:
            return None
        return Node(before.op.scaled(*node.op.channels), before.inputs, node.shape)

    def terms(self, position: int) -> int:
        """Return the length of the longest sum that bounds of this node compute."""
        node = self.nodes[position]
        entries = math.prod(node.shape) + len(self.nodes)
        return entries + sum(math.prod(self.nodes[i].shape) for i in node.inputs)

    def gamma(self, position: int) -> float:
        """Return γ for the sums that this node computes (see ``rounding``)."""
        return gamma(self.terms(position))

    def ends_of_affine_part(self) -> set[int]:
        """Return the nodes that depend on the input affinely but whose next node does not."""
        affine, left = {0}, set()
        for position, node in enumerate(self.nodes[1:], start=1):
            if not node.nonlinear and affine.issuperset(node.inputs):
                affine.add(position)
            else:
                left.update(affine.intersection(node.inputs))
        return (left | ({self.output} & affine)) - {0}

    def exact_by_intervals(self) -> set[int]:
        """Return the nodes whose intervals are exact over a box: they mix inputs at most once."""
        mixed = {0: 0}
        for position, node in enumerate(self.nodes[1:], start=1):
            if isinstance(node.op, Affine) and node.inputs[0] in mixed:
                mixed[position] = mixed[node.inputs[0]] + node.op.mixing
        return {position for position, times in mixed.items() if times <= 1}

    def share(self, position: int) -> tuple[float, float]:
        """Return where the entries of this node begin and end, as shares of the whole work of
        bounding every input of a nonlinearity, with one backward pass for each entry."""
        entries = [math.prod(node.shape) for node in self.nodes]
        works = {k: entries[k] * sum(entries[: k + 1]) for k in self._bounded()}
        order = list(works)
        before = sum(works[k] for k in order[: order.index(position)])
        total = sum(works.values()) or 1
        return before / total, (before + works[position]) / total

    def _bounded(self) -> list[int]:
        """Return the inputs of nonlinearities, in the order in which they are bounded."""
        used = (source for node in self.nodes if node.nonlinear for source in node.inputs)
        return list(dict.fromkeys(used))

    def ascent(self, rows: int, steps: int) -> float:
        """Return the share of all work for optimising the bounds of `rows` quantities
        (``share``)."""
        entries = [math.prod(node.shape) for node in self.nodes]
        before = sum(entries[k] * sum(entries[: k + 1]) for k in self._bounded())
        own = 3 * (steps + 1) * rows * sum(entries)  # there, back, and the step itself
        return own / (before + own)

    def widest(self, position: int) -> int:
        """Return the number of entries of the largest node up to this one."""
        return max(math.prod(node.shape) for node in self.nodes[: position + 1])

    @property
    def entries(self) -> int:
        """The number of entries of all nodes."""
        return sum(math.prod(node.shape) for node in self.nodes)
