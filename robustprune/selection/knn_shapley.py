"""Exact Shapley values for the nearest-neighbour classifier on a network's features.

Jia et al., Efficient task-specific data valuation for nearest neighbor algorithms, VLDB 2019,
arXiv 1908.08619.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustprune.selection.features import penultimate_features
from robustprune.selection.pool import Examples, Pool, batches, check_examples, needed


def knn_shapley(
    features: Tensor,
    y: Tensor,
    validation_features: Tensor,
    validation_y: Tensor,
    *,
    k: int,
    batch_size: int = 256,
) -> Tensor:
    """Return the Shapley value of each of N examples for K nearest neighbours (Theorem 1).

    The utility of a set S is the mean over the validation examples of the share of correct labels
    among the neighbours, v(S) = 1/K · Σ_{j ≤ min(K, |S|)} 1[y_{α_j(S)} = y_val]. With α_1 … α_N
    the examples from the nearest to the farthest and m_i = 1[y_{α_i} = y_val],

        s_{α_N} = m_N · min(K, N)/(K N),
        s_{α_i} = s_{α_{i+1}} + (m_i − m_{i+1}) · min(K, i)/(K i):

    which takes one sort for each validation example. The first equation generalises the paper's
    1/N · m_N, and also holds for K > N.

    Args:
        features, validation_features: (N, F) and (M, F), compared by Euclidean distance; of two
            equally far examples the first counts as nearer.
        y, validation_y: (N,) and (M,) class indices.
        k: K, the number of neighbours, at least 1.
        batch_size: the number of validation examples that are sorted at a time.

    Returns:
        (N,) float64, whose sum is v of all examples.

    Raises:
        ValueError: `k` is below 1, or the shapes do not fit.
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    check_examples(features, y, "the pool")
    check_examples(validation_features, validation_y, "validation")
    if features.dim() != 2 or features.shape[1:] != validation_features.shape[1:]:
        raise ValueError(
            f"features of shape {tuple(features.shape)} and {tuple(validation_features.shape)} do "
            "not fit; give (N, F) and (M, F)"
        )
    count = len(y)
    rank = torch.arange(1, count + 1, device=y.device, dtype=torch.float64)
    share = rank.clamp_max(k) / (k * rank)
    total = torch.zeros(count, device=y.device, dtype=torch.float64)
    for rows, labels in batches(batch_size, validation_features, validation_y):
        # not by a matrix product, whose rounding could change the order of close neighbours
        distance = torch.cdist(
            rows.double(),
            features.double(),
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        order = distance.argsort(dim=1, stable=True)
        match = (y[order] == labels.unsqueeze(1)).double()
        beyond = torch.cat((match[:, 1:], torch.zeros_like(match[:, :1])), dim=1)
        steps = (match - beyond) * share
        values = steps.flip(1).cumsum(1).flip(1)
        total += torch.zeros_like(values).scatter(1, order, values).sum(0)
    return total / len(validation_y)


@dataclass(frozen=True)
class KnnShapley:
    """Score candidates by `knn_shapley` on the penultimate features of the network.

    Attributes:
        k: K, the number of neighbours; the paper's experiments use 1 to 10.
        batch_size: the number of examples at a time in the network, and of validation examples in
            the sort.
    """

    k: int = 5
    batch_size: int = 256
    signed: ClassVar[bool] = True

    def __call__(self, model: nn.Module, pool: Pool, validation: Examples | None) -> Tensor:
        x, y = needed(validation, self)
        features, validation_features = (
            penultimate_features(model, part, batch_size=self.batch_size)
            for part in (pool.x_adv, x)
        )
        return knn_shapley(
            features, pool.y, validation_features, y, k=self.k, batch_size=self.batch_size
        )
