"""One layer as a least-squares problem: keep some of its weights, and choose their values.

    min over Ŵ ∈ S of  ‖Ŵ X̂ − T‖²_F

X̂ holds the inputs that the layer sees in the network pruned so far, one column an example (and, in
a convolution, a position); T holds the outputs that it should give. The second moments

    G = X̂ X̂ᵀ,   C = T X̂ᵀ,   ‖T‖²_F

are all that is needed of the data, since ‖Ŵ X̂ − T‖² = ⟨Ŵ G, Ŵ⟩ − 2 ⟨Ŵ, C⟩ + ‖T‖².

Every weight is a batch of matrices (groups, rows, columns) here: a linear layer is one matrix; a
convolution has a matrix for each of its `groups`, with an output in each row and one weight of the
kernel in each column, as `torch.nn.functional.unfold` lays out its inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from robustprune.sparsity import Groups


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        weight: (groups, rows, columns), exactly zero outside the mask.
        mask: the weights that are kept, of the same shape, boolean.
    """

    weight: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Quadratic:
    """f(Ŵ) = ‖(Ŵ − W*) L‖²_F with H = L Lᵀ: the layer's problem with a ridge, up to a constant.

    Attributes:
        hessian: H, (groups, columns, columns), positive definite. (Half the second derivative.)
        optimum: W*, (groups, rows, columns), the best weights if none had to be zero.
    """

    hessian: Tensor
    optimum: Tensor

    def error(self, weight: Tensor) -> Tensor:
        """f(Ŵ), a scalar."""
        step = weight - self.optimum
        return ((step @ self.hessian) * step).sum()


@dataclass(frozen=True)
class LayerProblem:
    """The problem of one layer.

    Attributes:
        weight: W, (groups, rows, columns), the layer's dense weights.
        gram: G = X̂ X̂ᵀ, (groups, columns, columns).
        cross: C = T X̂ᵀ, (groups, rows, columns).
        power: ‖T‖²_F, a scalar.
        samples: how many columns X̂ has, in each group.
        groups: how the weights fall into groups that are kept or pruned together.
        kept: how many of these groups to keep.
    """

    weight: Tensor
    gram: Tensor
    cross: Tensor
    power: Tensor
    samples: int
    groups: Groups
    kept: int

    @cached_property
    def energy(self) -> Tensor:
        """‖x̂_j‖² of each input j, (groups, columns)."""
        return self.gram.diagonal(dim1=-2, dim2=-1)

    @cached_property
    def dead(self) -> Tensor:
        """Which inputs are zero in all examples, (groups, columns): their weights do nothing."""
        return self.energy <= 0

    def choose(self, scores: Tensor) -> Tensor:
        """The mask of the groups with the largest Σ score.

        Args:
            scores: (groups, rows, columns), one a weight.

        Returns:
            (groups, rows, columns), boolean, `kept` groups of it True.
        """
        g = self.groups
        values = g.reduce(g.lay_back(scores.reshape(g.laid_out)))
        return g.lay_out(g.expand(g.choose(values, self.kept))).reshape(scores.shape)

    def error(self, weight: Tensor) -> float:
        """‖Ŵ X̂ − T‖² / ‖T‖², which is 1 for Ŵ = 0; of T = 0 the error itself."""
        weight = weight.to(self.gram)
        error = ((weight @ self.gram) * weight).sum() - 2 * (weight * self.cross).sum() + self.power
        error = error.clamp(min=0)  # rounding
        return float(error / self.power if self.power > 0 else error)

    def quadratic(self, ridge: float, *, by: Literal["input", "mean"] = "input") -> Quadratic:
        """The problem with a ridge towards the dense weights,

            ‖Ŵ X̂ − T‖² + Σ_j r_j ‖ŵ_j − w_j‖²,

        whose r_j is `ridge` times the input's own energy G_jj ("input"; Boža 2024, arXiv
        2401.02938), or times the mean energy of all inputs ("mean"; Frantar & Alistarh 2023, arXiv
        2301.00774). With T = W X̂ its optimum is W itself. The weights of dead inputs go to zero.

        Raises:
            ValueError: the Gram matrix is singular, so that a larger ridge is needed.
        """
        live = ~self.dead
        energy = self.energy
        if by == "mean":
            energy = energy.mean(-1, keepdim=True).expand_as(energy)
        added = torch.where(live, ridge * energy, 1.0)
        hessian = self.gram + torch.diag_embed(added)
        wanted = self.cross + torch.where(live, added, 0.0).unsqueeze(-2) * self.weight
        lower, failed = torch.linalg.cholesky_ex(hessian)
        if bool(failed.any()):
            raise ValueError(
                f"the Gram matrix of {self.gram.shape[-1]} inputs over {self.samples} samples is "
                f"singular with a ridge of {ridge:g}; give more examples or a larger ridge"
            )
        return Quadratic(hessian, torch.cholesky_solve(wanted.mT, lower).mT)

    def normalised(self) -> tuple[LayerProblem, Tensor]:
        """The same problem with inputs of unit energy, G_jj = 1, and the scale n of its weights:
        Ŵ of this problem is that of the other divided by n, (groups, 1, columns)."""
        scale = torch.where(self.dead, 1.0, self.energy.sqrt())
        n = scale.unsqueeze(-2)
        gram = self.gram / (scale.unsqueeze(-1) * n)
        return replace(self, weight=self.weight * n, gram=gram, cross=self.cross / n), n
