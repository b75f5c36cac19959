"""Fast minimum-norm (FMN) attack: it finds the nearest adversarial example in L∞, L2 or L1."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from attacks.box import Bounds, bounds_around, clip, unblocked
from attacks.geometry import lengths, per_example, project_ball, unit
from attacks.inputs import (
    check_at_least,
    check_number,
    given,
    loss_and_gradient,
    misclassified,
    predict,
)
from attacks.losses import margin
from attacks.nearest import MinimalNorm, farthest, first_order_distance, nothing_found
from attacks.network import Model


@dataclass(frozen=True)
class FMN(MinimalNorm):
    """Ascend the margin, projected on a ball whose radius approaches the boundary.

    ε_{k+1} = min((1 − γ_k) ε_k, ‖δ*‖) at an adversarial point; (1 + γ_k) ε_k if there was one
    before; else (1 + γ_k) (‖δ_k‖ + |g| / ‖∇g‖_dual). δ_{k+1} = Π_{ε_{k+1}}(δ_k + α_k ∇g/‖∇g‖₂):
    Pintor et al. 2021 (arXiv 2102.12827), alg. 1. In L2, Π sets the length to ε, as DDN does; with
    a projection on the ball, the step size and not ε would determine the length of a δ inside it.
    Returns the nearest misclassified point, or x itself where none was found.

    Args:
        norm: norm of the distance: "linf", "l2" or "l1".
        steps: number K of evaluations of the network; the last one needs no gradient.
        alpha: α₀ in input units, annealed by a cosine to α₀/100; None takes the 2-norm of each
            example's first-order step to the boundary (in L2 a third of it), which adapts to the
            units of x.
        gamma: γ₀, annealed by a cosine to γ₀/50.
        bounds: valid inputs, None or (lo, hi); support: where x may change; see ``ThreatModel``.
        mode: mode of the module while it is attacked (then restored): "eval", "train" or "keep".

    Raises:
        ValueError: an option is out of range, logits are NaN, or the batch is invalid.
    """

    norm: str = "linf"
    _: KW_ONLY
    steps: int = 100
    alpha: float | None = None
    gamma: float = 0.05
    bounds: Bounds = None
    support: Callable[[Tensor], Tensor] | None = None
    mode: str = "eval"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(2, steps=self.steps)
        check_number("strictly between 0 and 1", gamma=self.gamma)
        check_number("above 0", **given(alpha=self.alpha))

    def _search(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        bounds, furthest = bounds_around(self.bounds, x), farthest(x, self.bounds, self.norm)
        allowed = None if self.support is None else self.support(x)
        nearest, x_adv = nothing_found(x), x
        eps = scale = furthest  # set at the first step
        for k in range(self.steps - 1):
            logits, value, grad = loss_and_gradient(model, x_adv, y, margin)
            grad = unblocked(grad, x_adv, bounds, allowed)
            broken = misclassified(logits, y)
            r = lengths(x_adv - x, self.norm)
            nearest = nearest.update(x_adv, r, broken)
            distance = first_order_distance(value, grad, self.norm)
            if k == 0:
                scale = self._scale(value, grad)
            cosine = (1 + math.cos(math.pi * k / self.steps)) / 2
            gamma = self.gamma * (0.02 + 0.98 * cosine)
            # without the factor, a linear boundary at r + distance would be touched and not crossed
            grown = (1 + gamma) * torch.where(nearest.found, eps, r + distance)
            eps = torch.where(broken, torch.minimum((1 - gamma) * eps, nearest.r), grown)
            eps = torch.minimum(eps, furthest).nan_to_num(posinf=torch.finfo(x.dtype).max)
            alpha = per_example(scale * (0.01 + 0.99 * cosine), x)
            delta = _bring_to(x_adv - x + alpha * unit(grad, "l2"), self.norm, eps)
            x_adv = clip(x + delta, bounds)
        broken = misclassified(predict(model, x_adv, y), y)
        return nearest.update(x_adv, lengths(x_adv - x, self.norm), broken).x_adv

    def _scale(self, value: Tensor, grad: Tensor) -> Tensor:
        if self.alpha is not None:
            return torch.full_like(value, self.alpha)
        if self.norm == "linf":  # the step goes to a corner of the cube, which is √d long
            corner = math.sqrt(max(1, grad[0].numel()))
            return corner * first_order_distance(value, grad, "linf").nan_to_num(1.0, posinf=1.0)
        share = 1 / 3 if self.norm == "l2" else 1.0
        return share * first_order_distance(value, grad, "l2").nan_to_num(1.0, posinf=1.0)


def _bring_to(delta: Tensor, norm: str, eps: Tensor) -> Tensor:
    """Apply Π of the class docstring; an ε beyond all bounds leaves δ unchanged."""
    if norm != "l2":
        return project_ball(delta, norm, eps)
    beyond = eps >= torch.finfo(eps.dtype).max
    if bool(beyond.any()):
        eps = torch.where(beyond, lengths(delta, "l2"), eps)
    return per_example(eps, delta) * unit(delta, "l2")
