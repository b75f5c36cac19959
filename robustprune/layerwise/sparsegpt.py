"""SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774).

This is the optimal brain surgeon in a fixed order of columns, so that all rows share one inverse.
With the upper triangular U of H⁻¹ = Uᵀ U, column by column from the left, for all rows,

    e = (w_i − Π(w_i)) / U_ii,   W[:, i:] ← W[:, i:] − e U[i, i:],

where Π sets the pruned weights of column i to zero. Only columns to the right compensate for this:
those of the same block of columns immediately, the others when the block is done. The pruned
weights are chosen one block at a time, by the smallest w_ij² / U_jj² of the weights at that time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from robustprune.layerwise.bundles import families
from robustprune.layerwise.problem import LayerProblem, Projection, Quadratic, Solution, keep
from robustprune.sparsity import top_k


def sparsegpt(
    problem: LayerProblem,
    mask: Tensor | None = None,
    *,
    damp: float = 0.01,
    block: int = 128,
    project: Projection = keep,
) -> Solution:
    """Solve a layer by SparseGPT, from the optimum without zeros (W itself with T = W X̂).

    Single weights are compared within `block` columns, over all rows or by row. Each block keeps
    its share of `kept`, to the nearest whole number; the paper takes a quantile of each block. N:M
    is chosen where a block of M inputs begins. For other patterns, the mask is chosen before the
    first column, by the Σ of the same scores.

    Args:
        mask: (groups, rows, columns), boolean, a mask whose weights are searched; None searches the
            mask too.
        damp: strength of the ridge, relative to the mean energy of the inputs.
        block: number of columns in a block, at least 1.
        project: Π for a given mask; it gets one column, (groups, rows, 1).

    Raises:
        ValueError: `block` is below 1, or the problem is singular.
    """
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block!r}")
    plan = _plan(problem, block, chosen=mask is None)
    quadratic = problem.quadratic(damp, by="mean")
    order = plan.order.to(problem.weight.device)
    hessian = quadratic.hessian[:, order][:, :, order]
    quadratic = Quadratic(hessian, quadratic.cross[..., order])
    upper = torch.linalg.cholesky(torch.cholesky_inverse(quadratic.factor), upper=True)
    pivots = upper.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    # columns first, so that updated entries are contiguous
    weight = quadratic.optimum.mT.contiguous()
    if mask is None and not plan.choices:
        mask = problem.choose((weight / pivots).square().mT)
    kept = torch.zeros_like(weight, dtype=torch.bool)
    if mask is not None:
        kept = problem.checked(mask).mT.contiguous()
    for start, end in pairwise(plan.bounds):
        part, corner = weight[:, start:end], upper[:, start:end, start:end]
        errors = torch.empty_like(part)
        for i in range(end - start):
            if start + i in plan.choices:
                until, count = plan.choices[start + i]
                own = slice(start + i, until)
                kept[:, own] = _best((weight[:, own] / pivots[:, own]).abs(), count, plan.by_row)
            column = part[:, i].clone()
            wanted = project(column.unsqueeze(-1), kept[:, start + i, :, None]).squeeze(-1)
            error = (column - wanted) / pivots[:, start + i]
            part[:, i + 1 :].baddbmm_(corner[:, i, i + 1 :, None], error.unsqueeze(1), alpha=-1)
            part[:, i], errors[:, i] = wanted, error
        weight[:, end:].baddbmm_(upper[:, start:end, end:].mT, errors, alpha=-1)
    back = order.argsort()
    weight, kept = weight.mT[..., back], kept.mT[..., back].contiguous()
    return Solution(torch.where(kept, weight, 0.0), kept)


@dataclass(frozen=True)
class _Plan:
    """The order of the columns, the limits of blocks, and where a mask is chosen.

    A choice has its first and last column, and the number of weights of a row or of all rows.
    """

    order: Tensor
    bounds: list[int]
    choices: dict[int, tuple[int, int]]
    by_row: bool


def _plan(problem: LayerProblem, block: int, *, chosen: bool) -> _Plan:
    g, (groups, rows, columns) = problem.groups, problem.weight.shape
    order, bounds = torch.arange(columns), [*range(0, columns, block), columns]
    if not chosen or (g.fixed is None and g.pattern != "element"):
        return _Plan(order, bounds, {}, by_row=False)
    if g.fixed is None:
        kept = problem.kept // (groups * rows) if g.by_row else problem.kept
        share = [kept * bound // columns for bound in bounds]
        counts = [after - before for before, after in pairwise(share)]
        choices = dict(zip(bounds, zip(bounds[1:], counts, strict=True), strict=False))
        return _Plan(order, bounds, choices, g.by_row)
    family, most = families(problem)
    ends = torch.bincount(family).cumsum(0).tolist()
    begins = [0, *ends[:-1]]
    choices = dict(zip(begins, zip(ends, most.tolist(), strict=True), strict=True))
    bounds = [0]  # a block of M inputs must be within a block of columns
    for begin, end in zip(begins, ends, strict=True):
        if end - bounds[-1] > block and begin > bounds[-1]:
            bounds.append(begin)
    return _Plan(family.argsort(stable=True), [*bounds, columns], choices, by_row=True)


def _best(scores: Tensor, count: int, by_row: bool) -> Tensor:
    """Return the `count` largest of all scores (groups, columns, rows), or of each row's."""
    if not by_row:
        return top_k(scores.flatten(), count).view(scores.shape)
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)
