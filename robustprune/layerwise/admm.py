"""The alternating direction method of multipliers for one layer (Boža 2024, arXiv 2401.02938).

It splits the problem min f(Ŵ) over Ŵ ∈ S into Ŵ, which is free, and Z ∈ S with Ŵ = Z, and repeats

    Z ← Π_S(Ŵ + U),   U ← U + Ŵ − Z,   Ŵ ← (B + ρ (Z − U)) (H + ρ I)⁻¹.

Π_S keeps the largest entries and leaves them as they are. H + ρ I is factored once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustprune.layerwise.problem import LayerProblem, Projection, Solution, keep


def admm(
    problem: LayerProblem,
    mask: Tensor | None = None,
    *,
    rho: float = 1.0,
    ridge: float = 0.1,
    iterations: int = 20,
    chosen: int = 15,
    single: bool = True,
    project: Projection = keep,
) -> Solution:
    """ADMM on inputs of unit energy, with the mask of the largest |Ŵ + U| (Boža 2024, Alg. 1).

    It begins at the optimum without zeros, Ŵ = W* (W itself with T = W X̂), and U = 0.

    Args:
        mask: (groups, rows, columns), boolean, to find weights for; default, the mask is found too.
        rho: ρ, the penalty of Ŵ ≠ Z.
        ridge: pulls towards the dense weights, relative to the energy of each input.
        iterations: how many.
        chosen: in how many of them, from the first on, the mask is chosen anew.
        single: iterate in float32, as the paper's code does, whatever the dtype of the problem:
            about half the time, as H + ρ I is well conditioned in these units.
        project: Π_S for a given mask; another one also restricts the values of the weights, in
            units of inputs of unit energy.

    Raises:
        ValueError: ρ that isn't positive, fewer than one iteration or choice of a mask, or a
            singular problem.
    """
    if not 0 < rho < float("inf"):
        raise ValueError(f"rho must be a positive number, got {rho!r}")
    if iterations < 1 or (chosen < 1 and mask is None):
        raise ValueError(
            f"iterations and chosen must be at least 1, got {iterations!r} and {chosen!r}"
        )
    unit, scale = problem.normalised()
    quadratic = unit.quadratic(ridge)
    free = quadratic.optimum
    hessian = quadratic.hessian
    if single:
        free, hessian = free.float(), hessian.float()
    one = torch.eye(free.shape[-1], dtype=free.dtype, device=free.device)
    inverse = rho * torch.cholesky_inverse(torch.linalg.cholesky(hessian + rho * one))
    # B (H + ρ I)⁻¹, without the large numbers of B
    still = torch.baddbmm(free, free, inverse, alpha=-1)
    dual = torch.zeros_like(free)
    found = mask
    for iteration in range(iterations):
        dual += free
        if found is None or (mask is None and iteration < chosen):
            found = unit.choose(dual.abs())
        sparse = project(dual, found)
        dual -= sparse
        free = torch.baddbmm(still, sparse - dual, inverse)
    assert found is not None
    weight = project(dual + free, found).to(scale) / scale
    return Solution(torch.where(found, weight, 0.0), found)
