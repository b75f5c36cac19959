"""One layer as a least-squares problem: choose which weights to keep, and their values.

    min over Ŵ ∈ S of  ‖Ŵ X̂ − T‖²_F

X̂ has the inputs of the layer in the network pruned so far, one column per example (and, in
a convolution, per position); T has the outputs that the layer should give. The second moments

    G = X̂ X̂ᵀ,   C = T X̂ᵀ,   ‖T‖²_F

are sufficient statistics of the data, since ‖Ŵ X̂ − T‖² = ⟨Ŵ G, Ŵ⟩ − 2 ⟨Ŵ, C⟩ + ‖T‖².

Every weight is a batch of matrices (groups, rows, columns) here: a linear layer is one matrix; a
convolution has a matrix for each of its `groups`, with an output in each row and one weight of the
kernel in each column, as `torch.nn.functional.unfold` lays out its inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from robustprune.sparsity import Groups

#: unit of a ridge: the energy of each input, or the mean energy of all inputs
RidgeBy = Literal["input", "mean"]

#: Π_S for a given mask: (values, mask) -> the nearest values in S, all of one shape
Projection = Callable[[Tensor, Tensor], Tensor]


def keep(values: Tensor, mask: Tensor) -> Tensor:
    """Project values on all weights with this mask: values ⊙ mask.

    A product is faster than `torch.where`, and may leave −0.
    """
    return values * mask


@dataclass(frozen=True)
class Solution:
    """The solution that a solver found.

    Attributes:
        weight: (groups, rows, columns), exactly zero outside the mask.
        mask: the weights that are kept, in the same shape, boolean.
    """

    weight: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Quadratic:
    """f(Ŵ) = ⟨Ŵ H, Ŵ⟩ − 2 ⟨Ŵ, B⟩, the layer's problem with a ridge, up to a constant.

    Attributes:
        hessian: H, (groups, columns, columns), half the second derivative.
        cross: B, (groups, rows, columns).
    """

    hessian: Tensor
    cross: Tensor

    @cached_property
    def factor(self) -> Tensor:
        """Return the lower triangular L of H = L Lᵀ, (groups, columns, columns).

        Raises:
            ValueError: H is singular.
        """
        return factor(self.hessian)

    @cached_property
    def optimum(self) -> Tensor:
        """Return W* = B H⁻¹, (groups, rows, columns), the best weights if none had to be zero.

        Raises:
            ValueError: H is singular.
        """
        return torch.cholesky_solve(self.cross.mT, self.factor).mT

    def error(self, weight: Tensor) -> Tensor:
        """Return f(Ŵ) − f(W*) = ‖(Ŵ − W*) L‖²_F, a scalar."""
        return ((weight - self.optimum) @ self.factor).square().sum()


def factor(matrices: Tensor) -> Tensor:
    """Return the Cholesky factors of symmetric positive definite matrices (..., n, n).

    Raises:
        ValueError: a matrix is singular within the precision of its dtype.
    """
    lower: Tensor
    lower, failed = torch.linalg.cholesky_ex(matrices)
    n = matrices.shape[-1]
    pivots = lower.diagonal(dim1=-2, dim2=-1).square()
    rounding = 10 * n**0.5 * torch.finfo(matrices.dtype).eps
    smallest = rounding * matrices.diagonal(dim1=-2, dim2=-1)
    if bool(failed.any()) or bool((pivots <= smallest).any()):
        raise ValueError(
            f"the second moments of {n} inputs of a layer, with their ridge, are singular in "
            f"{matrices.dtype}; give more examples or a larger ridge"
        )
    return lower


@dataclass(frozen=True)
class LayerProblem:
    """The least-squares problem of one layer.

    Attributes:
        weight: W, (groups, rows, columns), the layer's dense weights.
        gram: G = X̂ X̂ᵀ, (groups, columns, columns).
        cross: C = T X̂ᵀ, (groups, rows, columns).
        power: ‖T‖²_F, a scalar.
        samples: number of columns of X̂ in each group.
        groups: how the weights are divided into groups that are kept or pruned together.
        kept: number of these groups to keep.
        mean: mean of each input, (groups, columns); only DSnoT needs it.
        variance: variance of each input, (groups, columns); only DSnoT needs it.
        examples: number of examples from which the columns of X̂ come; by default `samples`.

    Raises:
        ValueError: shapes or dtypes don't fit together, values are NaN or infinite, or this number
            of groups can't be kept.
    """

    weight: Tensor
    gram: Tensor
    cross: Tensor
    power: Tensor
    samples: int
    groups: Groups
    kept: int
    mean: Tensor | None = None
    variance: Tensor | None = None
    examples: int | None = None

    def __post_init__(self) -> None:
        groups, rows, columns = self.weight.shape
        wanted = {
            "weight": self.weight.shape,
            "gram": (groups, columns, columns),
            "cross": (groups, rows, columns),
            "mean": (groups, columns),
            "variance": (groups, columns),
        }
        for name, shape in wanted.items():
            value = getattr(self, name)
            if value is None:
                continue
            if value.shape != shape or value.dtype != self.weight.dtype:
                raise ValueError(
                    f"{name} of a layer problem must have the shape {tuple(shape)} and the dtype "
                    f"{self.weight.dtype} of its weight, got {tuple(value.shape)}, {value.dtype}"
                )
            if not bool(value.isfinite().all()):
                raise ValueError(
                    f"{name} of a layer problem holds NaN or infinity; look for them in the "
                    "weights and in the calibration data"
                )
        g, rows = self.groups, groups * rows
        if g.fixed is not None and self.kept != g.fixed:
            raise ValueError(f"pattern {g.pattern!r} keeps {g.fixed} weights, got {self.kept}")
        if g.by_row and g.in_row is None:
            raise ValueError(f"pattern {g.pattern!r} spans rows, which can't be compared by row")
        if not 0 <= self.kept <= g.number or (g.by_row and self.kept % rows):
            equally = f", as many in each of {rows} rows" if g.by_row else ""
            raise ValueError(f"can't keep {self.kept} of {g.number} groups{equally}")

    @cached_property
    def energy(self) -> Tensor:
        """Return ‖x̂_j‖² of each input j, (groups, columns)."""
        return self.gram.diagonal(dim1=-2, dim2=-1)

    @cached_property
    def dead(self) -> Tensor:
        """Return (groups, columns), which inputs are zero in all examples and so have no effect."""
        return self.energy <= 0

    def choose(self, scores: Tensor, kept: int | None = None) -> Tensor:
        """Return the mask of the groups with the largest Σ score.

        Args:
            scores: (groups, rows, columns), one score per weight.
            kept: number of groups to keep; by default that of the problem.

        Returns:
            (groups, rows, columns), boolean.

        Raises:
            ValueError: scores are NaN.
        """
        if bool(scores.amax().isnan()):
            raise ValueError("some scores of a layer are NaN, which cannot be ordered")
        g = self.groups
        values = g.reduce(g.lay_back(scores.reshape(g.laid_out)))
        return self.spread(g.choose(values, self.kept if kept is None else kept))

    def checked(self, mask: Tensor) -> Tensor:
        """Return a mask that was found elsewhere.

        Raises:
            ValueError: it is not boolean, or not of the weight's shape.
        """
        if mask.shape != self.weight.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"a mask must be boolean and have the shape {tuple(self.weight.shape)}, got "
                f"{tuple(mask.shape)}, {mask.dtype}"
            )
        return mask

    def spread(self, values: Tensor) -> Tensor:
        """Turn one value per group, (number,), into one per weight, (groups, rows, columns)."""
        return self.groups.lay_out(self.groups.expand(values)).reshape(self.weight.shape)

    def error(self, weight: Tensor) -> float:
        """Return ‖Ŵ X̂ − T‖² / ‖T‖², which is 1 for Ŵ = 0; for T = 0 return ‖Ŵ X̂‖²."""
        weight = weight.to(self.gram)
        error = ((weight @ self.gram) * weight).sum() - 2 * (weight * self.cross).sum() + self.power
        error = error.clamp(min=0)  # rounding
        return float(error / self.power if self.power > 0 else error)

    def quadratic(self, ridge: float, *, by: RidgeBy = "input") -> Quadratic:
        """Return the problem with a ridge towards the dense weights,

            ‖Ŵ X̂ − T‖² + Σ_j r_j ‖ŵ_j − w_j‖²,

        whose r_j is `ridge` times the input's own energy G_jj ("input"; Boža 2024, arXiv
        2401.02938), or times the mean energy of all inputs ("mean"; Frantar & Alistarh 2023, arXiv
        2301.00774). With T = W X̂ its optimum is W itself. The weights of dead inputs become zero.

        Raises:
            ValueError: the ridge is negative or not a number.
        """
        if not 0 <= ridge < float("inf"):
            raise ValueError(f"ridge must be a number from 0 on, got {ridge!r}")
        energy = self.energy
        if by == "mean":
            energy = energy.mean(-1, keepdim=True).expand_as(energy)
        added = torch.where(self.dead, 1.0, ridge * energy)
        cross = torch.where(self.dead.unsqueeze(-2), 0.0, self.cross)
        towards = torch.where(self.dead, 0.0, added).unsqueeze(-2) * self.weight
        return Quadratic(self.gram + torch.diag_embed(added), cross + towards)

    def normalised(self) -> tuple[LayerProblem, Tensor]:
        """Return the same problem with inputs of unit energy, and the scale n of its weights.

        In the returned problem, G_jj = 1. Ŵ of this problem is that of the returned one divided by
        n, which has the shape (groups, 1, columns).
        """
        scale = torch.where(self.dead, 1.0, self.energy.sqrt())
        n = scale.unsqueeze(-2)
        unit = replace(
            self,
            weight=self.weight * n,
            gram=self.gram / (scale.unsqueeze(-1) * n),
            cross=self.cross / n,
            mean=None if self.mean is None else self.mean / scale,
            variance=None if self.variance is None else self.variance / scale.square(),
        )
        return unit, n
