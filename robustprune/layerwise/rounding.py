"""Few bits a weight: rounding is one more set that the weights of a layer must lie in.

Each row (output) of a layer has its own grid of 2^bits equally spaced values between its smallest
and its largest dense weight, one of which is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from robustprune.layerwise.problem import LayerProblem, Projection, Solution
from robustprune.layerwise.solvers import SOLVERS
from robustprune.layerwise.sparsegpt import sparsegpt

#: numbers of bits for which there is a grid
BITS = range(2, 9)


@dataclass(frozen=True)
class Grid:
    """The values s · (c − z) for c in 0, …, 2^bits − 1.

    Attributes:
        step: s, (groups, rows, 1).
        zero: z, the code of zero, in the same shape; a whole number.
        bits: number of bits of a code.
    """

    step: Tensor
    zero: Tensor
    bits: int

    def codes(self, values: Tensor) -> Tensor:
        """Return the codes of the nearest values, whole numbers in the shape of `values`."""
        return ((values / self.step).round() + self.zero).clamp(0, 2**self.bits - 1)

    def nearest(self, values: Tensor) -> Tensor:
        """Return the nearest values of the grid."""
        return (self.codes(values) - self.zero) * self.step


def grid_of(weight: Tensor, bits: int) -> Grid:
    """Return the grids of the rows of a layer, (groups, rows, columns).

    Raises:
        ValueError: `bits` is not a whole number from 2 to 8.
    """
    check_bits(bits)
    low, high = weight.amin(-1, keepdim=True), weight.amax(-1, keepdim=True)
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = (high - low) / (2**bits - 1)
    step = torch.where(step > 0, step, 1.0)  # a row of zeros
    return Grid(step, (-low / step).round(), bits)


def check_bits(bits: int) -> None:
    """Raise ValueError unless there is a grid of so many bits."""
    if not isinstance(bits, int) or isinstance(bits, bool) or bits not in BITS:
        raise ValueError(f"quantise={bits!r} must be a whole number of bits from 2 to 8, or None")


def onto(grid: Grid) -> Projection:
    """Return the projection on weights of the grid with a given mask."""
    return lambda values, mask: grid.nearest(values) * mask


def with_rounding(
    solver: str | Callable[..., Solution], solve: Callable[..., Solution], bits: int
) -> Callable[..., Solution]:
    """Return a solver that also rounds.

    - SparseGPT prunes and rounds column by column, and the columns to the right make up for both
      (Frantar & Alistarh 2023, Sec. 3.5); at density 1 it is GPTQ (Frantar et al. 2023, arXiv
      2210.17323).
    - Where a solver keeps weights as they are, each is rounded to the nearest value.
    - The solution of any other solver is rounded column by column under its mask, and the columns
      to the right make up for it.
    """
    check_bits(bits)

    def solve_and_round(problem: LayerProblem, **options: Any) -> Solution:
        if "project" in options:
            raise ValueError("quantise brings its own projection; leave `project` out")
        grid = grid_of(problem.weight, bits)
        if solver == "sparsegpt":
            return solve(problem, project=onto(grid), **options)
        found = solve(problem, **options)
        if isinstance(solver, str) and not SOLVERS[solver].changes_weights:
            return Solution(onto(grid)(found.weight, found.mask), found.mask)
        again = replace(problem, weight=found.weight, cross=found.weight @ problem.gram)
        return sparsegpt(again, found.mask, project=onto(grid))

    return solve_and_round
