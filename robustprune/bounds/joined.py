"""Operations that join values: sums and concatenations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustprune.bounds.affine import Region, moved
from robustprune.bounds.algebra import Interval
from robustprune.bounds.precision import Precision


@dataclass(frozen=True)
class Sum:
    """Σ ±z_i over inputs of the same shape."""

    signs: tuple[int, ...]

    def clean(self, *zs: Tensor) -> Tensor:
        return sum((s * z for s, z in zip(self.signs, zs, strict=True)), start=zs[0].new_zeros(()))

    def interval(self, *inputs: Interval, gamma: float) -> Interval:
        pairs = list(zip(self.signs, inputs, strict=True))
        lo = self.clean(*(i.lo if s > 0 else i.hi for s, i in pairs))
        hi = self.clean(*(i.hi if s > 0 else i.lo for s, i in pairs))
        if not gamma:
            return Interval(lo, hi)
        slack = gamma * sum((i.size for i in inputs), start=lo.new_zeros(()))
        return Interval(lo - slack, hi + slack)

    def size(self, reach: Sequence[Tensor], boxes: Sequence[Interval]) -> None:
        return None  # copies of A are exact

    def deviation(
        self, precision: Precision, inputs: Sequence[Interval], out: Interval, size: Tensor | None
    ) -> Tensor:
        return precision.of_result(out.size, len(self.signs) - 1)

    def backward(self, A: Tensor) -> tuple[list[Tensor], None]:
        return [A if sign > 0 else -A for sign in self.signs], None


@dataclass(frozen=True)
class Concat:
    """The concatenation along ``dim``, usually of features or channels; ``lengths`` has the size of
    each input there."""

    lengths: tuple[int, ...]
    dim: int = 1
    moves: tuple[Region, Region] | None = None  # only in a crop, as in ``products.Product``

    def clean(self, *zs: Tensor) -> Tensor:
        return torch.cat(zs, self.dim)

    def interval(self, *inputs: Interval, gamma: float) -> Interval:
        return Interval(self.clean(*(i.lo for i in inputs)), self.clean(*(i.hi for i in inputs)))

    def size(self, reach: Sequence[Tensor], boxes: Sequence[Interval]) -> None:
        return None

    def deviation(
        self, precision: Precision, inputs: Sequence[Interval], out: Interval, size: Tensor | None
    ) -> None:
        return None

    def backward(self, A: Tensor) -> tuple[list[Tensor], None]:
        A = A if self.moves is None else moved(A, *self.moves)
        return list(torch.split_with_sizes(A, self.lengths, self.dim + 1)), None
