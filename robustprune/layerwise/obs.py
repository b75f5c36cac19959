"""The exact optimal brain surgeon of one layer: weights are removed one by one, others compensate.

Hassibi & Stork 1993; Frantar & Alistarh 2022, arXiv 2208.11580. From the optimum without zeros, in
each row, with H⁻¹ of the weights that are left,

    remove j = argmin w_j² / [H⁻¹]_jj,
    w ← w − w_j / [H⁻¹]_jj · H⁻¹ e_j,   H⁻¹ ← H⁻¹ − H⁻¹ e_j e_jᵀ H⁻¹ / [H⁻¹]_jj.

The weights are then the least squares on what is left. Each removal increases f by its
w_j² / [H⁻¹]_jj. A group S of weights costs Σ w_Sᵀ ([H⁻¹]_SS)⁻¹ w_S, summed over the rows that it
contains.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustprune.layerwise.bundles import Bundles, bundles_of
from robustprune.layerwise.problem import LayerProblem, Quadratic, RidgeBy, Solution
from robustprune.layerwise.refit import MEMORY, least_squares


@dataclass(frozen=True)
class Removals:
    """The groups that are removed from each bundle of rows, step by step.

    Attributes:
        number: (bundles, steps), the group of weights.
        cost: (bundles, steps), the increase of f.
    """

    number: Tensor
    cost: Tensor


def obs(
    problem: LayerProblem,
    *,
    ridge: float = 0.01,
    by: RidgeBy = "input",
    most_columns: int = 1152,
) -> Solution:
    """Remove the group of weights that costs least, one after the other, until `kept` are left.

    Where all of a layer is compared, the next to go is the cheapest of what is next in each row
    (Frantar & Alistarh 2022, Sec. 4).

    Args:
        ridge, by: see `LayerProblem.quadratic`.
        most_columns: larger layers are refused, because the time grows as rows · columns³.

    Raises:
        ValueError: there are more columns, the problem is singular, or see `bundles_of`.
    """
    check_columns(problem, most_columns)
    quadratic = problem.quadratic(ridge, by=by)
    bundles = bundles_of(problem)
    removals = remove(quadratic, bundles)
    count = problem.groups.number - problem.kept
    # a group never comes before those that its row removes earlier, however cheap it is
    reached = removals.cost.cummax(1).values.flatten()
    gone = removals.number.flatten()[reached.argsort(stable=True)[:count]]
    kept = torch.ones(problem.groups.number, dtype=torch.bool, device=gone.device)
    mask = problem.spread(kept.index_fill_(0, gone, False))
    return Solution(least_squares(quadratic, mask), mask)


def check_columns(problem: LayerProblem, most: int) -> None:
    """Refuse a layer that would take hours.

    Raises:
        ValueError: the layer has more than `most` columns.
    """
    columns = problem.weight.shape[-1]
    if columns > most:
        raise ValueError(
            f"a row of the layer has {columns} inputs, and the time of this solver grows with the "
            f"cube of it; take 'sparsegpt' or 'admm', or set most_columns (now {most}) to {columns}"
        )


def remove(quadratic: Quadratic, bundles: Bundles, *, memory: int = MEMORY) -> Removals:
    """Remove blocks from every bundle, until it has `bundles.each` left, or none.

    In double precision: the updates of H⁻¹ lose too many digits otherwise.

    Args:
        memory: largest number of bytes of the inverses that are in memory at the same time.
    """
    weight = bundles.matrices(quadratic.optimum.flatten(0, 1)).double()
    lower = quadratic.factor.double()
    columns = weight.shape[-1]
    inverse = torch.cholesky_inverse(lower)
    piece = max(1, memory // (8 * columns**2))
    parts = []
    for start in range(0, len(weight), piece):
        own = slice(start, start + piece)
        part = bundles.part(own)
        parts.append(_remove(inverse[part.home], weight[own], part))
    return Removals(torch.cat([p.number for p in parts]), torch.cat([p.cost for p in parts]))


def _remove(inverse: Tensor, weight: Tensor, bundles: Bundles) -> Removals:
    """Do the same for a few bundles, each with its H⁻¹ and its weights, which are overwritten."""
    count, blocks = len(weight), len(bundles.blocks)
    steps = blocks - (bundles.each or 0)
    here = torch.arange(count, device=weight.device)
    alive = torch.ones(count, blocks, dtype=torch.bool, device=weight.device)
    size = torch.bincount(bundles.family)
    left = (size - bundles.most if bundles.each is not None else size).repeat(count, 1)
    found, costs = [], []
    for _ in range(steps):
        cost = _costs(inverse, weight, bundles.blocks, alive)
        cost = cost.masked_fill(~alive | (left == 0)[:, bundles.family], torch.inf)
        least, block = cost.min(1)
        found.append(bundles.number[here, block])
        costs.append(least)
        alive[here, block] = False
        left[here, bundles.family[block]] -= 1
        columns = bundles.blocks[block]
        valid = (columns >= 0).unsqueeze(1)
        chosen = columns.clamp(min=0).unsqueeze(1)
        across = inverse.gather(2, chosen.expand(-1, inverse.shape[1], -1)) * valid
        own = _within(across.mT, chosen, valid)
        step = torch.linalg.solve(own, across.mT)  # [H⁻¹]_SS⁻¹ H⁻¹_S:
        values = weight.gather(2, chosen.expand(-1, weight.shape[1], -1)) * valid
        weight.baddbmm_(values, step, alpha=-1)
        inverse.baddbmm_(across, step, alpha=-1)
    if not found:
        return Removals(bundles.number[:, :0], weight.new_zeros(count, 0))
    return Removals(torch.stack(found, 1), torch.stack(costs, 1))


def _costs(inverse: Tensor, weight: Tensor, blocks: Tensor, alive: Tensor) -> Tensor:
    """Return the cost of removing each block, (bundles, blocks)."""
    if blocks.shape[1] == 1:
        diagonal = inverse.diagonal(dim1=1, dim2=2)[:, blocks[:, 0]]
        squares = weight.square().sum(1)[:, blocks[:, 0]]
        return squares / torch.where(alive, diagonal, 1.0)
    chosen, valid = blocks.clamp(min=0), (blocks >= 0) & alive.unsqueeze(2)
    own = inverse[:, chosen[:, :, None], chosen[:, None, :]]
    one = torch.eye(blocks.shape[1], dtype=own.dtype, device=own.device)
    own = torch.where(valid.unsqueeze(2) & valid.unsqueeze(3), own, one)
    values = weight[:, :, chosen].transpose(1, 2) * valid.unsqueeze(2)  # (bundles, blocks, p, s)
    costs: Tensor = (torch.linalg.solve(own, values.mT) * values.mT).sum((2, 3))
    return costs


def _within(rows: Tensor, chosen: Tensor, valid: Tensor) -> Tensor:
    """Return the chosen columns of rows (b, s, columns), (b, s, s), with 1 where there is none."""
    own = rows.gather(2, chosen.expand(-1, rows.shape[1], -1))
    one = torch.eye(own.shape[1], dtype=own.dtype, device=own.device)
    return torch.where(valid & valid.mT, own, one)
