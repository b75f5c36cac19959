"""Describe the channels of tensors: which ones are tied together, and which are constant.

Each tensor between two layers has channels along one axis. Channels that can only be removed
together share a "fate", which is a number: channel i of the input and of the output of a batch
norm or of a depthwise convolution, the summands and the sum of a residual connection, the H·W
features that flattening makes of one channel, or the features of one attention head. A channel is
constant if it has one value at all positions and for all inputs: the output of a filter without
weights is its bias, batch norm maps it to another constant, and ReLU to max(0, that constant).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustprune.deploy.network import Step
from robustprune.deploy.vocabulary import CONVOLUTIONS, TRANSPOSED, tensor_names

Kind = Literal["affine", "depthwise", "norm", "each", "pair", "join", "flatten", "heads", "opaque"]


class Fates:
    """Hold numbers of which some have been declared equal (union-find)."""

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
    """Describe the C channels of one tensor.

    Attributes:
        axis: the dimension of the channels.
        fates: (C,) numbers; channels with equal numbers stay or are removed together.
        constant: (C,) bool, whether the channel is constant.
        value: (C,) float64, the value of a constant channel; it has no meaning for others.
    """

    axis: int
    fates: NDArray[np.int64]
    constant: Tensor
    value: Tensor

    def nonzero(self) -> Tensor:
        """Return (C,) bool: the channels that are constant but not zero."""
        return self.constant & (self.value != 0)


@dataclass(frozen=True)
class Flow:
    """A step with the signals of its inputs and its output. None stands for a tensor whose
    channels all stay and are not constant, such as the network's input."""

    step: Step
    kind: Kind
    sources: dict[str, Signal | None]
    out: Signal | None


@dataclass(frozen=True)
class Flows:
    """All steps in order; `pinned` names the tensors whose channels must all stay."""

    flows: list[Flow]
    fates: Fates
    pinned: set[str]


def weight_matrix(layer: nn.Module) -> Tensor:
    """Return a linear or convolution weight as (out, in, positions of the kernel), float64, on the
    CPU."""
    weight = getattr(layer, tensor_names(layer)[0])
    assert isinstance(weight, Tensor)
    weight = weight.detach().to("cpu", torch.float64)
    if isinstance(layer, TRANSPOSED):
        weight = weight.transpose(0, 1)
    return weight.reshape(*weight.shape[:2], -1)


def leaks(layer: nn.Module) -> bool:
    """Return whether a constant input channel gives an output that depends on the position,
    because fewer positions of the kernel see the constant where zeros are padded."""
    if isinstance(layer, TRANSPOSED):
        return True
    if not isinstance(layer, CONVOLUTIONS) or layer.padding_mode != "zeros":
        return False
    padding = layer.padding
    return padding == "same" if isinstance(padding, str) else any(p > 0 for p in padding)
