"""Which channels of which tensors are tied together, and which are constant, whatever the input.

Each tensor between two layers has channels along one axis. Channels that can only be removed
together share a fate: a batch norm's output channel i and its input channel i, both summands and
the sum of a residual connection, the H·W features that flattening makes of one channel. A channel
is constant if it has one value at all positions, for all inputs: the output of a filter without
weights is its bias, after batch norm another constant, after ReLU max(0, that).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustprune.deploy.network import Step
from robustprune.deploy.vocabulary import CONVOLUTIONS, TRANSPOSED

Kind = Literal["affine", "norm", "each", "pair", "join", "flatten", "opaque"]


class Fates:
    """Union-find: numbers, some of which have been declared equal."""

    def __init__(self) -> None:
        self._parent: list[int] = []

    def new(self, count: int) -> NDArray[np.int64]:
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def find(self, fates: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([self._root(int(fate)) for fate in fates], dtype=np.int64)

    def unite(self, ones: NDArray[np.int64], others: NDArray[np.int64]) -> None:
        for one, other in zip(ones, others, strict=True):
            self._parent[self._root(int(one))] = self._root(int(other))

    def __len__(self) -> int:
        return len(self._parent)

    def _root(self, fate: int) -> int:
        while self._parent[fate] != fate:
            self._parent[fate] = self._parent[self._parent[fate]]
            fate = self._parent[fate]
        return fate


@dataclass(frozen=True)
class Signal:
    """The C channels of one tensor.

    Attributes:
        axis: the dimension that holds them.
        fates: (C,) numbers; channels with equal ones stay or go together.
        constant: (C,) bool, whether the channel is constant.
        value: (C,) float64, its constant; without meaning elsewhere.
    """

    axis: int
    fates: NDArray[np.int64]
    constant: Tensor
    value: Tensor

    def nonzero(self) -> Tensor:
        """(C,) bool: constant, and not zero."""
        return self.constant & (self.value != 0)


@dataclass(frozen=True)
class Flow:
    """A step, with what goes in and comes out. A `None` signal is a tensor all of whose channels
    stay and none of which is constant, such as the network's input."""

    step: Step
    kind: Kind
    sources: dict[str, Signal | None]
    out: Signal | None


@dataclass(frozen=True)
class Flows:
    """All steps in order; `pinned` are the tensors that some step needs whole."""

    flows: list[Flow]
    fates: Fates
    pinned: set[str]


def weight_matrix(layer: nn.Module) -> Tensor:
    """A linear or convolution weight as (out, in, positions of the kernel), float64, on the CPU."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach().to("cpu", torch.float64)
    if isinstance(layer, TRANSPOSED):
        weight = weight.transpose(0, 1)
    return weight.reshape(*weight.shape[:2], -1)


def leaks(layer: nn.Module) -> bool:
    """Whether the layer turns a constant input channel into one that depends on the position:
    where zeros are padded, fewer positions of the kernel see the constant."""
    if isinstance(layer, TRANSPOSED):
        return True
    if not isinstance(layer, CONVOLUTIONS) or layer.padding_mode != "zeros":
        return False
    padding = layer.padding
    return padding == "same" if isinstance(padding, str) else any(p > 0 for p in padding)
