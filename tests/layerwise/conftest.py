"""Layers with the data that their second moments come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import pytest
import torch
from torch import Tensor

from robustprune.layerwise.problem import LayerProblem
from robustprune.sparsity import Groups, count_kept


@dataclass(frozen=True)
class Layer:
    """A problem, its inputs X̂ (groups, columns, samples), targets T (groups, rows, samples)."""

    problem: LayerProblem
    inputs: Tensor
    targets: Tensor

    def error(self, weight: Tensor) -> float:
        """‖Ŵ X̂ − T‖²_F from the data."""
        return float((weight @ self.inputs - self.targets).square().sum())


class MakeLayer(Protocol):
    def __call__(
        self,
        rows: int = 6,
        columns: int = 16,
        *,
        groups: int = 1,
        kernel: tuple[int, ...] = (),
        pattern: str = "element",
        by_row: bool = False,
        density: float = 0.5,
        samples: int = 100,
        target: str = "own",
        dead: int = 0,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> Layer: ...


def of_data(weight: Tensor, inputs: Tensor, targets: Tensor, groups: Groups, kept: int) -> Layer:
    problem = LayerProblem(
        weight,
        inputs @ inputs.mT,
        targets @ inputs.mT,
        targets.square().sum(),
        inputs.shape[-1],
        groups,
        kept,
        mean=inputs.mean(-1),
        variance=inputs.var(-1, correction=0),
    )
    return Layer(problem, inputs, targets)


def _make(
    rows: int = 6,
    columns: int = 16,
    *,
    groups: int = 1,
    kernel: tuple[int, ...] = (),
    pattern: str = "element",
    by_row: bool = False,
    density: float = 0.5,
    samples: int = 100,
    target: str = "own",
    dead: int = 0,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Layer:
    """Correlated inputs of unequal energy; `rows` outputs a group, `columns` inputs before the
    kernel. target: "own" is W X̂, "other" is that and noise."""
    random = torch.Generator().manual_seed(seed)
    width = columns * torch.Size(kernel).numel()

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    mixed = normal(groups, width, width) + 2 * torch.eye(width, dtype=torch.float64)
    inputs = mixed @ normal(groups, width, samples) * normal(groups, width, 1).exp() + 0.5
    inputs[:, :dead] = 0
    weight = normal(groups, rows, width)
    targets = weight @ inputs
    if target == "other":
        targets = targets + targets.std() * normal(groups, rows, samples)
    fall = Groups((groups * rows, columns, *kernel), pattern, groups, False, by_row)
    if fall.fixed is not None:
        kept = fall.fixed
    elif by_row:
        kept = groups * rows * count_kept(density, fall.number // (groups * rows))
    else:
        kept = count_kept(density, fall.number)
    return of_data(weight.to(dtype), inputs.to(dtype), targets.to(dtype), fall, kept)


@pytest.fixture(scope="session")
def make_layer() -> MakeLayer:
    return _make
