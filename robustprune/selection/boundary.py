"""Weights by the distance to the decision boundary, counted in steps of an attack.

Zhang et al., Geometry-aware instance-reweighted adversarial training (GAIRAT), ICLR 2021,
arXiv 2010.01736.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from attacks.inputs import check_batch, loss_and_gradient, misclassified
from attacks.losses import log_odds
from attacks.modes import attacking
from attacks.network import Model
from robustprune.selection.pool import Examples, Pool, batches


def steps_to_break(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int,
    step_size: float | None = None,
    mode: str = "eval",
) -> Tensor:
    """κ: how many steps of PGD from x it takes until an example is misclassified.

    0 is misclassified without an attack, and `steps` one that stands until then or longer. The
    attack starts at x itself, so that the count is no matter of chance.

    Args:
        x, y: (N, ...), (N,), clean examples.
        steps: K.
        step_size: in input units; None for 2.5 ε / K.
        mode: "eval" (restored afterwards), "train" or "keep" for a module's mode meanwhile.

    Returns:
        (N,) int64.

    Raises:
        ValueError: steps below 1, or NaN logits.
    """
    y = check_batch(x, y)
    alpha = PGD(threat, steps=steps, step_size=step_size).alpha(threat)
    count, standing = torch.zeros_like(y), torch.ones_like(y, dtype=torch.bool)
    with attacking(model, mode):
        x = x.detach()
        x_adv, ascend = x, threat.ascent(x, alpha, threat.projector(x))
        for _ in range(steps):
            logits, _, grad = loss_and_gradient(model, x_adv, y, log_odds)
            standing = standing & ~misclassified(logits, y)
            count = count + standing
            x_adv = ascend(x_adv, grad)
    return count


def boundary_weights(kappa: Tensor, *, steps: int, lam: float = -1.0) -> Tensor:
    """ω = (1 + tanh(λ + 5 (1 − 2κ/K))) / 2: near 1 close to the boundary, near 0 far from it.

    Args:
        kappa: (N,) of `steps_to_break`.
        steps: K.
        lam: λ; the authors' code takes −1.
    """
    return (1 + torch.tanh(lam + 5 * (1 - 2 * kappa / steps))) / 2


@dataclass(frozen=True)
class BoundaryDistance:
    """`boundary_weights` of the pool's clean examples.

    As in the paper, take `keep=1.0, weighted=True`.
    """

    threat: ThreatModel
    steps: int = 10
    step_size: float | None = None
    lam: float = -1.0
    batch_size: int = 256
    signed: ClassVar[bool] = False

    def __call__(self, model: nn.Module, pool: Pool, validation: Examples | None) -> Tensor:
        if pool.x is None:
            raise ValueError(
                "BoundaryDistance counts steps from the clean examples; give Pool(x_adv, y, x)"
            )
        everyone = torch.arange(len(pool), device=pool.y.device)
        kappa = torch.cat(
            [
                steps_to_break(
                    model,
                    pool.x[row],
                    pool.y[row],
                    self.threat.select(row),
                    steps=self.steps,
                    step_size=self.step_size,
                )
                for (row,) in batches(self.batch_size, everyone)
            ]
        )
        return boundary_weights(kappa, steps=self.steps, lam=self.lam)
