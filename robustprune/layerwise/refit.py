"""Least squares on a support: the best weights for a given mask.

Row i of the layer keeps the columns S_i, and its weights solve H[S_i, S_i] w = B[i, S_i], with H
and B of the `Quadratic`. Rows with the same mask share a factorisation; others are factored as a
batch, in pieces that stay below a limit of memory. Where supports are too large for that, conjugate
gradients solve all rows together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustprune.layerwise.problem import LayerProblem, Quadratic, RidgeBy, Solution, factor
from robustprune.layerwise.scores import choose_by

#: number of bytes of the factors that are in memory at the same time
MEMORY = 1 << 28


def refit(
    problem: LayerProblem,
    mask: Tensor | None = None,
    *,
    scores: str = "wanda",
    ridge: float = 0.01,
    by: RidgeBy = "input",
    exact: int = 2048,
    tolerance: float = 1e-6,
) -> Solution:
    """Solve the least squares of the layer on a support: min ‖Ŵ X̂ − T‖² + ridge over Ŵ = Ŵ ⊙ mask.

    With the support of a sparse true solution and no ridge, it is the oracle of sparse recovery.

    Args:
        mask: (groups, rows, columns), boolean, such as a mask that a search found; None takes the
            mask that `scores` choose, a name of `SCORES`.
        ridge, by: see `LayerProblem.quadratic`; 0 gives plain least squares.
        exact: largest number of weights of a row for which Cholesky factors are used.
        tolerance: relative residual at which conjugate gradients stop, for rows with more weights.

    Raises:
        ValueError: scores are unknown, a mask has another shape, or the inputs of a support are
            linearly dependent, so that a larger ridge is needed.
    """
    mask = choose_by(problem, scores) if mask is None else problem.checked(mask)
    quadratic = problem.quadratic(ridge, by=by)
    if int(mask.sum(-1).max()) <= exact:
        weight = least_squares(quadratic, mask)
    else:
        start = torch.where(mask, problem.weight, 0.0)
        weight = conjugate_gradients(quadratic, mask, start, 10 * exact, tolerance=tolerance)
    return Solution(weight, mask)


def least_squares(quadratic: Quadratic, mask: Tensor, *, memory: int = MEMORY) -> Tensor:
    """Return argmin f(Ŵ) over Ŵ = Ŵ ⊙ mask, (groups, rows, columns), by Cholesky factors.

    Args:
        memory: largest number of bytes of the factors that are in memory at the same time.

    Raises:
        ValueError: H is singular on a support.
    """
    groups, rows, columns = mask.shape
    kept = mask.reshape(-1, columns)
    home = torch.arange(groups, device=mask.device).repeat_interleave(rows)
    keyed = torch.cat([home.unsqueeze(1), kept], 1).int()
    _, which, shared = torch.unique(keyed, dim=0, return_inverse=True, return_counts=True)
    cross = quadratic.cross.reshape(-1, columns)
    weight = torch.zeros_like(cross)
    if 2 * len(shared) <= len(kept):
        for own in which.argsort(stable=True).split(shared.tolist()):
            support = kept[own[0]].nonzero().squeeze(1)
            lower = factor(quadratic.hessian[home[own[0]]][support][:, support])
            place = own.unsqueeze(1), support
            weight[place] = torch.cholesky_solve(cross[place].mT, lower).mT
        return weight.view_as(mask)
    counts = kept.sum(1)
    order = counts.argsort(stable=True)
    while len(order):
        # the rows with the largest supports that are left; shorter supports are padded with 1
        width = int(counts[order[-1]])
        piece = max(1, memory // max(1, width**2 * cross.itemsize))
        order, own = order[:-piece], order[-piece:]
        if width:
            _solve_rows(quadratic.hessian, cross, weight, kept, home, own, width)
    return weight.view_as(mask)


def _solve_rows(
    hessian: Tensor,
    cross: Tensor,
    weight: Tensor,
    kept: Tensor,
    home: Tensor,
    own: Tensor,
    width: int,
) -> None:
    """Fill in the rows `own` of `weight`, whose supports have at most `width` columns."""
    support = (~kept[own]).byte().argsort(dim=1, stable=True)[:, :width]
    valid = kept[own].gather(1, support)
    matrices = hessian[home[own, None, None], support[:, :, None], support[:, None, :]]
    one = torch.eye(width, dtype=hessian.dtype, device=hessian.device)
    matrices = torch.where(valid[:, :, None] & valid[:, None, :], matrices, one)
    wanted = torch.where(valid, cross[own].gather(1, support), 0.0)
    values = torch.cholesky_solve(wanted.unsqueeze(2), factor(matrices)).squeeze(2)
    weight[own] = torch.zeros_like(weight[own]).scatter_(1, support, values * valid)


def conjugate_gradients(
    quadratic: Quadratic, mask: Tensor, start: Tensor, steps: int, *, tolerance: float = 0.0
) -> Tensor:
    """Solve the same for all rows together, by conjugate gradients with the diagonal of H.

    Args:
        start: (groups, rows, columns), zero outside the mask.
        steps: largest number of steps.
        tolerance: it stops when ‖residual‖ ≤ tolerance · ‖B‖ on the support in each row.
    """
    scale = quadratic.hessian.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
    enough = tolerance * torch.where(mask, quadratic.cross, 0.0).norm(dim=-1)
    weight = start.clone()
    residual = torch.where(mask, quadratic.cross - weight @ quadratic.hessian, 0.0)
    direction = residual / scale
    slope = (residual * direction).sum(-1, keepdim=True)
    for _ in range(steps):
        if bool((residual.norm(dim=-1) <= enough).all()):
            break
        image = torch.where(mask, direction @ quadratic.hessian, 0.0)
        curvature = (direction * image).sum(-1, keepdim=True)
        length = torch.where(curvature > 0, slope / curvature, 0.0)
        weight += length * direction
        residual -= length * image
        scaled = residual / scale
        last, slope = slope, (residual * scaled).sum(-1, keepdim=True)
        direction = scaled + torch.where(last > 0, slope / last, 0.0) * direction
    return weight
