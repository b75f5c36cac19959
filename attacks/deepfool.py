"""DeepFool steps to the nearest linearised boundary, again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from attacks.apgd import ranked_targets
from attacks.box import Bounds, bounds_around, clip
from attacks.fab import logit_gradients, nearest_plane, reachable
from attacks.hyperplane import step_to_hyperplane
from attacks.inputs import check_at_least, check_number, misclassified, predict
from attacks.losses import spread
from attacks.nearest import MinimalNorm, between
from attacks.network import Model


@dataclass(frozen=True)
class DeepFool(MinimalNorm):
    """Step to the nearest linearised boundary until the class changes.

    With l = argmin_{k≠y} |z_k − z_y| / ‖∇(z_k − z_y)‖_dual, x ← x + (1 + η) d, where d is the
    smallest step to z_l = z_y linearised; then x is clipped: Moosavi-Dezfooli et al. 2016 (arXiv
    1511.04599), alg. 2. At the end, the overshoot is reduced by bisection of the segment to the
    clean input. Returns x itself where the class does not change.

    Args:
        norm: norm of the distance: "linf", "l2" or "l1".
        steps: largest number of iterations; an example stops at its first misclassified point.
        classes: number of other classes, those with the highest logits, whose boundaries are
            compared; each needs a backward pass.
        overshoot: η, at least 0; a point exactly on the boundary may change its class with the
            batch size.
        halvings: number of forward passes of the bisection at the end; 0 returns the paper's point.
        bounds: valid inputs, None or (lo, hi); support: where x may change; see ``ThreatModel``.
        mode: mode of the module while it is attacked (then restored): "eval", "train" or "keep".

    Raises:
        ValueError: an option is out of range, logits are NaN, or the batch is invalid.
    """

    norm: str = "l2"
    _: KW_ONLY
    steps: int = 50
    classes: int = 9
    overshoot: float = 0.02
    halvings: int = 7
    bounds: Bounds = None
    support: Callable[[Tensor], Tensor] | None = None
    mode: str = "eval"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, steps=self.steps, classes=self.classes)
        check_at_least(0, halvings=self.halvings)
        check_number("at least 0", overshoot=self.overshoot)

    def _search(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        out, logits = x.clone(), predict(model, x, y)
        ranked = ranked_targets(logits, y, min(self.classes, logits.shape[1] - 1))
        live = (~misclassified(logits, y)).nonzero().squeeze(1)
        solved = torch.zeros_like(y, dtype=torch.bool)
        x_adv = out[live]
        for _ in range(self.steps):
            if len(live) == 0:
                break
            logits, gaps, grads = logit_gradients(model, x_adv, y[live], ranked[live])
            gap, normal = reachable(*nearest_plane(gaps, grads, self.norm))
            if self.support is not None:
                normal = torch.where(self.support(x[live]), normal, 0.0)
            # The bounds clip the step but don't shape it: steps that avoid closed directions
            # go further along a linearisation that holds only nearby (measured: 5 to 10%).
            # Slightly beyond the plane: a point exactly on it would never leave it
            hair = max(1e-4, torch.finfo(logits.dtype).eps)
            gap = gap.abs() + hair * spread(logits)
            step = step_to_hyperplane(x_adv, normal, gap, self.norm, None)
            moved = x_adv + (1 + self.overshoot) * step
            x_adv = clip(moved, bounds_around(self.bounds, x[live]))
            broken = misclassified(predict(model, x_adv, y[live]), y[live])
            out[live[broken]], solved[live[broken]] = x_adv[broken], True
            live, x_adv = live[~broken], x_adv[~broken]
        out[solved] = between(model, x[solved], out[solved], y[solved], halvings=self.halvings)
        return out
