"""The l1 norm instead of a count of weights: lasso by FISTA, and basis pursuit.

Both work on inputs of unit energy, so that the norm treats all inputs equally. Both keep the `kept`
largest weights of their solution, and solve the least squares on these.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustprune.layerwise.problem import LayerProblem, Quadratic, RidgeBy, Solution
from robustprune.layerwise.refit import least_squares


def lasso(
    problem: LayerProblem,
    *,
    ridge: float = 0.01,
    by: RidgeBy = "input",
    bisections: int = 12,
    steps: int = 200,
    tolerance: float = 1e-4,
) -> Solution:
    """Solve min f(Ŵ) + λ Σ |ŵ_ij| ‖x̂_j‖₂, with the largest λ that leaves at least `kept` weights.

    λ is found by bisection of its logarithm, between the λ of Ŵ = 0 and a 10,000th of it. Each
    solution is the start of the next one. There is one λ for all weights that are compared.

    Args:
        ridge, by: see `LayerProblem.quadratic`.
        bisections: how many times the interval of λ is halved.
        steps, tolerance: options of `fista`, for each λ.

    Raises:
        ValueError: inputs of the support are linearly dependent.
    """
    unit, scale = problem.normalised()
    quadratic = unit.quadratic(ridge, by=by)
    wanted = problem.kept / problem.groups.number * problem.weight.numel()
    dims: tuple[int, ...] = (0, 1, 2)
    if problem.groups.by_row or problem.groups.fixed is not None:
        wanted, dims = wanted / problem.weight[..., 0].numel(), (-1,)
    high = (2 * quadratic.cross.abs()).amax(dims, keepdim=True).clamp(min=1e-30).log()
    low = high - math.log(1e4)
    found = best = torch.zeros_like(problem.weight)
    for _ in range(bisections):
        middle = (low + high) / 2
        found = fista(quadratic, middle.exp(), found, steps, tolerance=tolerance)
        enough = (found != 0).sum(dims, keepdim=True) >= wanted
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
        best = torch.where(enough, found, best)
    # where nearly all weights stay, no λ leaves enough; the rest is chosen by the gradient of f
    slope = (quadratic.cross - best @ quadratic.hessian).abs()
    score = best.abs() + slope / slope.amax().clamp(min=1e-30) * _smallest(best)
    return _largest(problem, quadratic, score, scale)


def fista(
    quadratic: Quadratic, penalty: Tensor | float, start: Tensor, steps: int, *, tolerance: float
) -> Tensor:
    """Solve min f(Ŵ) + λ ‖Ŵ‖₁ by the fast iterative shrinkage-thresholding algorithm (FISTA).

    Beck & Teboulle (2009, Eqs. 4.1 to 4.3); each row restarts by its gradient (O'Donoghue & Candès
    2015).

    Args:
        penalty: λ, a number or a tensor that broadcasts to (groups, rows, columns).
        start: (groups, rows, columns).
        steps: largest number of steps.
        tolerance: it stops when no weight moves by more, relative to the largest weight.
    """
    steepest = 2 * torch.linalg.eigvalsh(quadratic.hessian)[:, -1, None, None]
    weight = ahead = start
    speed = torch.ones_like(start[..., :1])
    for _ in range(steps):
        gradient = 2 * (ahead @ quadratic.hessian - quadratic.cross)
        new = shrink(ahead - gradient / steepest, penalty / steepest)
        move = new - weight
        restart = ((ahead - new) * move).sum(-1, keepdim=True) > 0
        speed = torch.where(restart, 1.0, speed)
        faster = (1 + (1 + 4 * speed.square()).sqrt()) / 2
        ahead = new + torch.where(restart, 0.0, (speed - 1) / faster) * move
        weight, speed = new, faster
        if bool(move.abs().amax() <= tolerance * weight.abs().amax()):
            break
    return weight


def basis_pursuit(
    problem: LayerProblem,
    *,
    ridge: float = 0.01,
    by: RidgeBy = "input",
    iterations: int = 1000,
    tolerance: float = 1e-6,
) -> Solution:
    """Solve min Σ |ŵ_ij| ‖x̂_j‖₂ s.t. Ŵ G = C (Chen, Donoho & Saunders 1998).

    Ŵ G = C has several solutions if inputs are linearly dependent, as with fewer examples than
    inputs. They are the exact or, if there is none, the least-squares fits of the target. ADMM
    alternates between this plane and a soft threshold (Boyd et al. 2011, Sec. 6.2).

    Args:
        ridge, by: for the least squares on the support, see `LayerProblem.quadratic`.
        iterations: largest number of iterations.
        tolerance: it stops when plane and threshold differ by less, relative to the largest weight.

    Raises:
        ValueError: inputs of the support are linearly dependent.
    """
    unit, scale = problem.normalised()
    found = smallest_l1(unit.gram, unit.cross, iterations, tolerance=tolerance)
    return _largest(problem, unit.quadratic(ridge, by=by), found.abs(), scale)


def smallest_l1(gram: Tensor, cross: Tensor, iterations: int, *, tolerance: float) -> Tensor:
    """Return argmin ‖W‖₁ with W G = C, (groups, rows, columns)."""
    values, vectors = torch.linalg.eigh(gram)
    limit = values[:, -1:] * values.shape[-1] * torch.finfo(values.dtype).eps
    vectors = vectors * (values > limit).unsqueeze(-2)  # of the inputs' range
    met: Tensor = (
        (cross @ vectors) / torch.where(values > limit, values, 1.0).unsqueeze(-2) @ vectors.mT
    )
    limit = met.abs().mean(-1, keepdim=True)  # 1/ρ, in the scale of a row's weights
    sparse, dual = met, torch.zeros_like(met)
    for _ in range(iterations):
        away = sparse - dual
        on = met + away - away @ vectors @ vectors.mT
        sparse = shrink(on + dual, limit)
        dual = dual + on - sparse
        if bool((on - sparse).abs().amax() <= tolerance * met.abs().amax()):
            break
    return sparse


def shrink(values: Tensor, limit: Tensor | float) -> Tensor:
    """Return the soft threshold sign(v) · max(|v| − limit, 0)."""
    return values.sign() * (values.abs() - limit).clamp(min=0)


def _smallest(weight: Tensor) -> Tensor:
    """Return half of the smallest |weight| that isn't zero."""
    sizes = weight.abs().masked_fill(weight == 0, torch.inf)
    return sizes.amin().clamp(max=1.0) / 2


def _largest(problem: LayerProblem, unit: Quadratic, scores: Tensor, scale: Tensor) -> Solution:
    """Solve the least squares, with inputs of unit energy, on the groups of the largest Σ
    score²."""
    mask = problem.choose(scores.square())
    return Solution(least_squares(unit, mask) / scale, mask)
