"""Patterns: which weights live or die together, and the exact top-k over such groups.

A weight is first laid out as (out, in, *kernel), transposed convolutions included. A pattern is
the number of leading dimensions that index a group; the dimensions after them are the group:

| pattern | group of a convolution     | group of a linear layer |
| ------- | -------------------------- | ----------------------- |
| element | one weight                 | one weight              |
| row     | W[o, i, ..., :]            | W[o, :]                 |
| kernel  | W[o, i]                    | one weight              |
| filter  | W[o]                       | W[o, :]                 |

Robust scratch tickets compare element, row and kernel (arXiv 2110.14068, Sec. 3.6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

PatternName = Literal["element", "row", "kernel", "filter"]
PATTERNS: tuple[PatternName, ...] = get_args(PatternName)

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def check_density(density: float) -> float:
    """Return `density` if it is a kept fraction in (0, 1].

    Raises:
        ValueError: otherwise (NaN included).
    """
    if not 0.0 < density <= 1.0:
        raise ValueError(
            f"density must be in (0, 1] (the fraction of weights kept), got {density!r}"
        )
    return density


def count_kept(density: float, total: int) -> int:
    """⌈density · total⌉, exactly, for the density as it is written.

    In floats 0.07 · 100 is 7.000000000000001, whose ceiling is 8; the decimal 0.07 gives 7.

    Raises:
        ValueError: `density` outside (0, 1].
    """
    return math.ceil(Fraction(repr(float(check_density(density)))) * total)


@dataclass(frozen=True)
class Groups:
    """How one layer's weight of `shape` falls into groups under a pattern.

    `conv_groups` is the `groups` argument of a transposed convolution, whose weight
    (in, out/groups, *kernel) has its output channels in the second dimension; 0 for any other
    layer.
    """

    shape: tuple[int, ...]
    pattern: PatternName
    conv_groups: int = 0

    @property
    def out_first(self) -> tuple[int, ...]:
        """The shape laid out as (out, in, *kernel)."""
        if not self.conv_groups:
            return self.shape
        ins, outs, *kernel = self.shape
        return (outs * self.conv_groups, ins // self.conv_groups, *kernel)

    @property
    def leading(self) -> int:
        """How many leading dimensions of `out_first` index a group."""
        ndim = len(self.shape)
        return {"element": ndim, "row": ndim - 1, "kernel": 2, "filter": 1}[self.pattern]

    @property
    def number(self) -> int:
        return math.prod(self.out_first[: self.leading])

    @property
    def fan_in(self) -> int:
        """Inputs to one output unit."""
        return math.prod(self.out_first[1:])

    def reduce(self, score: Tensor) -> Tensor:
        """Sum |score| over each group: shape (number,)."""
        magnitude = score.abs()
        if self.leading == len(self.shape):
            return magnitude.flatten()
        return self._lay_out(magnitude).reshape(self.number, -1).sum(1)

    def expand(self, kept: Tensor) -> Tensor:
        """Spread one value per group, shape (number,), over the weight's own shape."""
        if self.leading == len(self.shape):
            return kept.view(self.shape)
        ones = (1,) * (len(self.shape) - self.leading)
        wide = kept.view(*self.out_first[: self.leading], *ones).expand(self.out_first)
        return self._lay_back(wide).contiguous()

    def _lay_out(self, weight: Tensor) -> Tensor:
        if not self.conv_groups:
            return weight
        g, (ins, outs, *kernel) = self.conv_groups, self.shape
        return weight.view(g, ins // g, outs, *kernel).transpose(1, 2).reshape(self.out_first)

    def _lay_back(self, weight: Tensor) -> Tensor:
        if not self.conv_groups:
            return weight
        g, (ins, outs, *kernel) = self.conv_groups, self.shape
        return weight.reshape(g, outs, ins // g, *kernel).transpose(1, 2).reshape(self.shape)


def group_weight(module: nn.Module, pattern: PatternName = "element") -> Groups:
    """The groups of `module.weight` under `pattern`.

    Raises:
        ValueError: unknown pattern.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"unknown pattern {pattern!r}; choose one of {', '.join(PATTERNS)}")
    weight = module.weight
    assert isinstance(weight, Tensor)
    conv_groups = module.groups if isinstance(module, _TRANSPOSED) else 0
    return Groups(tuple(weight.shape), pattern, conv_groups)


def top_k(values: Tensor, k: int) -> Tensor:
    """Mark the k largest of `values` (1-D): exactly k, and of equal ones the first by index.

    Both ways below give the same mask: a partition is linear and quick on the CPU; on an
    accelerator the stable sort is the deterministic one.
    """
    n = values.numel()
    if k >= n:
        return torch.ones_like(values, dtype=torch.bool)
    if values.device.type != "cpu":
        chosen = torch.sort(values, descending=True, stable=True).indices[:k]
        return torch.zeros_like(values, dtype=torch.bool).index_fill_(0, chosen, True)
    array = values.detach().numpy()
    threshold = np.partition(array, n - k)[n - k]
    kept = array >= threshold
    surplus = int(np.count_nonzero(kept)) - k
    if surplus:
        ties = np.flatnonzero(array == threshold)
        kept[ties[len(ties) - surplus :]] = False
    return torch.from_numpy(kept)
