"""ALPS (Meng et al., NeurIPS 2024, arXiv 2406.07831): ADMM, then least squares on the mask.

The penalty ρ grows until the mask no longer changes. The least squares are solved by conjugate
gradients.

    Ŵ ← (B − V + ρ D) (H + ρ I)⁻¹,   D ← Π(Ŵ + V / ρ),   V ← V + ρ (Ŵ − D),

on inputs of unit energy. H = Q Λ Qᵀ is decomposed once, so that a new ρ costs two products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustprune.layerwise.problem import LayerProblem, Quadratic, Solution, keep
from robustprune.layerwise.refit import conjugate_gradients


def alps(
    problem: LayerProblem,
    *,
    rho: float = 0.1,
    ridge: float = 0.01,
    iterations: int = 300,
    every: int = 3,
    gradients: int = 10,
) -> Solution:
    """ADMM with the steps of ρ of Meng et al. 2024, as their released code takes them.

    With s weights that entered or left the mask in the last `every` iterations, of k kept,

        s/k > 0.1: ρ ← 1.3 ρ;   s/k > 0.005: ρ ← 1.2 ρ;   s > 0: ρ ← 1.1 ρ;   s = 0: stop.

    Until the mask has moved by more than 0.005 k once, ρ is too large, and is divided by 5 instead.

    Args:
        rho: first value of ρ, above 0.
        ridge: strength of the ridge, relative to the mean energy of the inputs.
        iterations: largest number of iterations.
        every: number of iterations after which ρ changes.
        gradients: number of steps of conjugate gradients on the mask that is found.

    Raises:
        ValueError: ρ is not positive, iterations or `every` are below 1, or the problem is
            singular.
    """
    if not 0 < rho < float("inf"):
        raise ValueError(f"rho must be a positive number, got {rho!r}")
    if iterations < 1 or every < 1:
        raise ValueError(f"iterations and every must be at least 1, got {iterations!r}, {every!r}")
    quadratic = problem.quadratic(ridge, by="mean")
    scale = quadratic.hessian.diagonal(dim1=-2, dim2=-1).sqrt()
    n = scale.unsqueeze(-2)
    unit = Quadratic(quadratic.hessian / (scale.unsqueeze(-1) * n), quadratic.cross / n)
    values, vectors = torch.linalg.eigh(unit.hessian.double())

    def inverse() -> Tensor:
        found: Tensor = (vectors / (values + rho).unsqueeze(-2)) @ vectors.mT
        return found.to(unit.cross.dtype)

    first = problem.choose(unit.optimum.abs())
    mask = last = first
    sparse, dual = keep(unit.optimum, mask), torch.zeros_like(unit.optimum)
    shrunk, moved = inverse(), False
    for iteration in range(1, iterations + 1):
        free = (unit.cross - dual + rho * sparse) @ shrunk
        pulled = free + dual / rho
        mask = problem.choose(pulled.abs())
        sparse = keep(pulled, mask)
        dual = dual + rho * (free - sparse)
        if iteration % every:
            continue
        changes = int((mask != last).sum())
        share = changes / max(problem.kept, 1)
        moved |= share > 0.005
        last = mask
        if not moved:
            rho /= 5
            if changes:
                sparse, dual = keep(unit.optimum, first), torch.zeros_like(dual)
            if rho < 1e-10:
                break
        elif changes == 0:
            break
        else:
            rho = min(rho * (1.3 if share > 0.1 else 1.2 if share > 0.005 else 1.1), 1e6)
        shrunk = inverse()
    mask = problem.choose(torch.where(mask, free.abs(), -1.0))
    weight = conjugate_gradients(unit, mask, keep(free, mask), gradients)
    return Solution(weight / n, mask)
