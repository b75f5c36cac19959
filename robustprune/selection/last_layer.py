"""The utility of a set of candidates for the network's last layer, retrained on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustprune.selection.features import penultimate_features
from robustprune.selection.monte_carlo import Utility
from robustprune.selection.pool import Examples, Pool, check_examples


def last_layer_utility(
    model: nn.Module,
    pool: Pool,
    validation: Examples,
    *,
    base: Examples | None = None,
    ridge: float = 1e-2,
    batch_size: int = 256,
) -> Utility:
    """Return v(S) = −1/M Σ_j ‖Wᵀφ'_j − e_{y'_j}‖², with W a ridge regression on candidates S.

        W = argmin 1/N Σ_{i ∈ S ∪ base} ‖Wᵀφ_i − e_{y_i}‖² + λ ‖W‖²

    φ are the penultimate features and a constant, divided by the root of their mean square over
    the pool. N counts all candidates and the base, so that a larger set is regularised less. This
    is a retraining in closed form; Monte-Carlo Shapley values need thousands of retrainings.

    Args:
        validation: the examples (x, y) on which the last layer is judged.
        base: examples (x, y) that are always trained on, such as the clean examples; None for none.
        ridge: λ, above 0.

    Returns:
        A function from int64 indices of the pool to the score, for `monte_carlo_shapley`.

    Raises:
        ValueError: `ridge` is not above zero, or the model has no last linear layer.
    """
    if not ridge > 0:
        raise ValueError(f"ridge={ridge} must be above 0")
    check_examples(*validation, "validation")
    classes = 1 + max(int(labels.max()) for labels in (pool.y, validation[1]))
    features = _with_constant(penultimate_features(model, pool.x_adv, batch_size=batch_size))
    scale = features.square().mean(0).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)  # a unit that is zero for all candidates
    held = _with_constant(penultimate_features(model, validation[0], batch_size=batch_size))
    features, held = features / scale, held / scale
    labels = F.one_hot(pool.y, classes).double()
    wanted = F.one_hot(validation[1], classes).double()
    count = len(pool)
    gram = torch.zeros(features.shape[1], features.shape[1]).to(features)
    target = torch.zeros(features.shape[1], classes).to(features)
    if base is not None:
        check_examples(*base, "the base")
        count += len(base[1])
        fixed = _with_constant(penultimate_features(model, base[0], batch_size=batch_size)) / scale
        gram = fixed.T @ fixed
        target = fixed.T @ F.one_hot(base[1], classes).double()
    gram = gram + ridge * count * torch.eye(len(gram)).to(gram)

    def utility(indices: Tensor) -> float:
        rows, ones = features[indices], labels[indices]
        solution = torch.linalg.solve(gram + rows.T @ rows, target + rows.T @ ones)
        return -float((held @ solution - wanted).square().sum(1).mean())

    return utility


def _with_constant(features: Tensor) -> Tensor:
    ones = torch.ones(len(features), 1, dtype=torch.float64, device=features.device)
    return torch.cat((features.double(), ones), dim=1)
