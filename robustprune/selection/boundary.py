"""Weight examples by their distance to the decision boundary, counted in steps of an attack.

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
    """Return κ: how many steps of PGD from x it takes until an example is misclassified.

    0 means that the example is misclassified without an attack, and `steps` that it was still
    correct before the last step. The attack starts at x itself, so the count does not depend on
    chance.

    Args:
        x, y: (N, ...) and (N,), the clean examples and their labels.
        steps: K, the number of steps of the attack, at least 1.
        step_size: the length of a step in input units; None for 2.5 ε / K.
        mode: the model's mode during the attack: "eval", "train" or "keep"; it is restored
            afterwards.

    Returns:
        (N,) int64.

    Raises:
        ValueError: `steps` is below 1, or logits are NaN.
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
    """Return ω = (1 + tanh(λ + 5 (1 − 2κ/K))) / 2, near 1 close to the boundary and 0 far from it.

    Args:
        kappa: (N,), the result of `steps_to_break`.
        steps: K, the number of steps of the attack.
        lam: λ; the authors' code uses −1.
    """
    return (1 + torch.tanh(lam + 5 * (1 - 2 * kappa / steps))) / 2


@dataclass(frozen=True)
class BoundaryDistance:
    """Score candidates by the `boundary_weights` of their clean examples.

    The paper's method is `keep=1.0, weighted=True` of `select_adversarial_examples`. The fields are
    the arguments of `steps_to_break` and `boundary_weights`; `batch_size` examples are attacked at
    a time.
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
