"""Dynamic sparse no training (DSnoT; Zhang et al., ICLR 2024, arXiv 2310.08915).

Weights are swapped in a mask until the mean of each output is restored; no weight changes its
value. The pruned weights' part of the mean output of a row is ε = Σ_pruned w_j x̄_j. A cycle

    regrows the pruned weight of largest w_j x̄_j / var_jᵖ if ε > 0, else of the smallest,
    prunes the kept weight of least |w_j| ‖x̂_j‖₂ of those whose w_j x̄_j and ε differ in sign.

A row ends with |ε| ≤ a threshold, or before a swap that would change the sign of ε. x̄ is the sum
over an example's positions, averaged over the examples, as in the authors' code, so the scale of ε
depends on the length of the examples. The variance here is that over all positions; the authors
average the variance within an example.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustprune.layerwise.bundles import families
from robustprune.layerwise.problem import LayerProblem, Solution
from robustprune.layerwise.scores import as_they_are, choose_by, wanda_scores


def dsnot(
    problem: LayerProblem,
    mask: Tensor | None = None,
    *,
    scores: str = "wanda",
    cycles: int = 50,
    threshold: float = 0.1,
    power: float = 1.0,
) -> Solution:
    """Swap weights until each row keeps its mean output (Zhang et al. 2024, Alg. 1).

    No weight moves twice. For N:M, the pruned weight is the one of smallest score in the block of
    the regrown one, whatever its sign; the mask remains N:M.

    Args:
        mask: (groups, rows, columns), boolean, the first mask; None takes the mask that `scores`
            choose, a name of `SCORES`.
        cycles: largest number of swaps in a row of the matrix.
        threshold: value of |ε| at or below which a row is not changed further.
        power: p, the exponent of the variance.

    Raises:
        ValueError: the problem has no mean and variance, or groups have more than one weight.
    """
    g = problem.groups
    if problem.mean is None or problem.variance is None:
        raise ValueError(
            "DSnoT needs the mean and the variance of a layer's inputs, which this problem lacks; "
            "give them to LayerProblem, or take another solver"
        )
    if g.fixed is None and g.pattern != "element":
        raise ValueError(
            f"DSnoT swaps single weights, pattern {g.pattern!r} groups them; take pattern "
            "'element' or N:M, or another solver"
        )
    mask = choose_by(problem, scores) if mask is None else problem.checked(mask)
    length = problem.samples / (problem.examples or problem.samples)
    effect = (problem.weight * problem.mean.unsqueeze(-2) * length).flatten(0, 1)
    spread = problem.variance.pow(power).clamp(min=torch.finfo(effect.dtype).tiny)
    growth = effect / spread.repeat_interleave(problem.weight.shape[1], 0)
    cost = wanda_scores(problem).flatten(0, 1)
    family = families(problem)[0].to(cost.device) if g.fixed is not None else None
    kept = mask.flatten(0, 1)
    kept = _swap(kept, effect, growth, cost, family, cycles, threshold)
    return as_they_are(problem, kept.view(problem.weight.shape))


def _swap(
    kept: Tensor,
    effect: Tensor,
    growth: Tensor,
    cost: Tensor,
    family: Tensor | None,
    cycles: int,
    threshold: float,
) -> Tensor:
    """Return the mask (rows, columns) after swaps; `effect` is w x̄, `family` the blocks of N:M."""
    rows = torch.arange(len(kept), device=kept.device)
    missing = torch.where(kept, 0.0, effect).sum(1)
    sign = missing.sign()
    kept, can_grow, can_prune = kept.clone(), ~kept, kept.clone()
    going = torch.ones_like(missing, dtype=torch.bool)
    for _ in range(cycles):
        up = missing.unsqueeze(1) > 0
        grow_from = can_grow
        if family is not None:
            left = torch.zeros(len(kept), int(family.max()) + 1, device=kept.device)
            left.index_add_(1, family, can_prune.float())
            grow_from = can_grow & (left[:, family] > 0)
        grown = torch.where(up, growth, -growth).masked_fill(~grow_from, -torch.inf).argmax(1)
        if family is None:
            prune_from = can_prune & torch.where(up, effect < 0, effect > 0)
        else:
            prune_from = can_prune & (family == family[grown].unsqueeze(1))
        pruned = cost.masked_fill(~prune_from, torch.inf).argmin(1)
        after = missing + effect[rows, pruned] - effect[rows, grown]
        going &= grow_from.any(1) & prune_from.any(1)
        going &= (missing.abs() > threshold) & (after.sign() == sign)
        if not bool(going.any()):
            break
        own, grown, pruned = rows[going], grown[going], pruned[going]
        kept[own, grown], kept[own, pruned] = True, False
        can_grow[own, grown] = can_prune[own, pruned] = False
        missing = torch.where(going, after, missing)
    return kept
