"""Data Shapley by truncated Monte Carlo, for any training and any score.

Ghorbani & Zou, Data Shapley: equitable valuation of data for machine learning, ICML 2019,
arXiv 1904.02868.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustprune.selection.pool import Examples, Pool

Utility = Callable[[Tensor], float]


@dataclass(frozen=True, eq=False)
class ShapleyEstimate:
    """An estimate of Shapley values.

    Attributes:
        values: (N,) float64, the means of the marginal contributions.
        errors: (N,) float64, their standard errors, without the bias of truncation.
        calls: how many times the utility was called.
    """

    values: Tensor
    errors: Tensor
    calls: int


def monte_carlo_shapley(
    utility: Utility, count: int, *, permutations: int, tolerance: float = 0.0, seed: int = 0
) -> ShapleyEstimate:
    """Estimate φ_i = E_π[v(S_π^i ∪ {i}) − v(S_π^i)], where S_π^i precedes i in the order π.

    This is alg. 1. Without truncation the estimate is unbiased and its sum is exactly
    v(all) − v(∅). With it, the rest of an order counts as zero once |v(all) − v(S)| < tolerance,
    which saves trainings.

    Args:
        utility: v, a function from int64 indices in ascending order (possibly empty) to a score: it
            trains on these examples and measures the score on the validation set. It must always
            return the same score for the same indices, so give the training a fixed seed.
        count: N, the number of examples.
        permutations: the number of random orders, at least 2.
        tolerance: the tolerance of the truncation, at least 0; 0 never truncates. The paper uses
            the noise of the score.
        seed: the seed of the random orders.

    Raises:
        ValueError: a number is out of range, or a score is not finite.
    """
    if count < 1 or permutations < 2:
        raise ValueError(
            f"count={count} must be at least 1 and permutations={permutations} at least 2"
        )
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance} must be at least 0")
    calls = 0

    def score(indices: Tensor) -> float:
        nonlocal calls
        calls += 1
        value = float(utility(indices.sort().values))
        if not abs(value) < float("inf"):
            raise ValueError(f"the utility of {len(indices)} examples is {value}, not finite")
        return value

    generator = torch.Generator().manual_seed(seed)
    empty, full = score(torch.arange(0)), score(torch.arange(count))
    marginals = torch.zeros(permutations, count, dtype=torch.float64)
    for row in marginals:
        order, before = torch.randperm(count, generator=generator), empty
        for position, index in enumerate(order.tolist()):
            if abs(full - before) < tolerance:
                break
            after = full if position == count - 1 else score(order[: position + 1])
            row[index] = after - before
            before = after
    return ShapleyEstimate(
        marginals.mean(0), marginals.std(0, correction=1) / permutations**0.5, calls
    )


@dataclass(frozen=True)
class DataShapley:
    """Score candidates by `monte_carlo_shapley` with the user's own utility on indices of the pool.

    It needs N − 1 trainings for each order, so use small pools or a tolerance.
    """

    utility: Utility
    permutations: int = 100
    tolerance: float = 0.0
    seed: int = 0
    signed: ClassVar[bool] = True

    def __call__(self, model: nn.Module, pool: Pool, validation: Examples | None) -> Tensor:
        estimate = monte_carlo_shapley(
            self.utility,
            len(pool),
            permutations=self.permutations,
            tolerance=self.tolerance,
            seed=self.seed,
        )
        return estimate.values.to(pool.y.device)
