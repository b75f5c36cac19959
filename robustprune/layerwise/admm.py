"""The alternating direction method of multipliers for one layer (Boža 2024, arXiv 2401.02938).

It splits the problem min f(Ŵ) over Ŵ ∈ S into Ŵ, which is free, and Z ∈ S with Ŵ = Z, and repeats

    Z ← Π_S(Ŵ + U),   U ← U + Ŵ − Z,   Ŵ ← (B + ρ (Z − U)) (H + ρ I)⁻¹.

Π_S keeps the largest entries unchanged and sets the others to zero. H + ρ I is factored once.
"""

from __future__ import annotations

from typing import Literal

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
    start: Literal["dense", "optimum"] = "dense",
    single: bool = True,
    project: Projection = keep,
) -> Solution:
    """Solve a layer by ADMM on inputs of unit energy; the mask has the largest |Ŵ + U| (Alg. 1).

    Args:
        mask: (groups, rows, columns), boolean, a mask whose weights are searched; None searches the
            mask too.
        rho: ρ > 0, the penalty for Ŵ ≠ Z.
        ridge: strength of the ridge towards the dense weights, relative to the energy of each
            input.
        iterations: number of iterations.
        chosen: number of iterations, from the first one on, that choose the mask anew.
        start: Ŵ before the first iteration: "dense", the dense weights, as in the paper; "optimum",
            the optimum without zeros. With T = W X̂ they are the same.
        single: whether to iterate in float32, as the paper's code does, whatever the dtype of the
            problem. This takes about half the time, and H + ρ I is well conditioned in these units.
        project: Π_S for a given mask; another function can also restrict the values of the weights,
            in units of inputs of unit energy.

    Raises:
        ValueError: ρ is not positive, iterations or `chosen` are below 1, an unknown start, a mask
            of another shape, or the problem is singular.
    """
    if not 0 < rho < float("inf"):
        raise ValueError(f"rho must be a positive number, got {rho!r}")
    if iterations < 1 or (chosen < 1 and mask is None):
        raise ValueError(
            f"iterations and chosen must be at least 1, got {iterations!r} and {chosen!r}"
        )
    if start not in ("dense", "optimum"):
        raise ValueError(f"start must be 'dense' or 'optimum', got {start!r}")
    if mask is not None:
        problem.checked(mask)
    unit, scale = problem.normalised()
    quadratic = unit.quadratic(ridge)
    optimum, hessian = quadratic.optimum.contiguous(), quadratic.hessian
    free = optimum
    if start == "dense":
        free = torch.where(unit.dead.unsqueeze(-2), 0.0, unit.weight)
    del unit, quadratic  # two copies of the problem, in large layers gigabytes
    if single:
        optimum, free, hessian = optimum.float(), free.float(), hessian.float()
    one = torch.eye(free.shape[-1], dtype=free.dtype, device=free.device)
    inverse = rho * torch.cholesky_inverse(torch.linalg.cholesky(hessian + rho * one))
    # B (H + ρ I)⁻¹, without the large numbers of B
    still = torch.baddbmm(optimum, optimum, inverse, alpha=-1)
    del optimum, hessian
    dual = torch.zeros_like(free)
    found = mask
    for iteration in range(iterations):
        dual += free
        if found is None or (mask is None and iteration < chosen):
            found = problem.choose(dual.abs())
        sparse = project(dual, found)
        dual -= sparse
        free.copy_(still).baddbmm_(sparse - dual, inverse)
    assert found is not None
    weight = project(dual + free, found).to(scale) / scale
    return Solution(torch.where(found, weight, 0.0), found)
