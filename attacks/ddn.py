"""Decoupled direction and norm (DDN) finds the nearest adversarial example in L2."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from attacks.box import Bounds, bounds_around, clip, unblocked
from attacks.geometry import lengths, per_example, unit
from attacks.inputs import (
    check_at_least,
    check_number,
    check_seed,
    generator_for,
    given,
    loss_and_gradient,
    misclassified,
    predict,
)
from attacks.losses import log_odds, margin
from attacks.nearest import MinimalNorm, farthest, first_order_distance, nothing_found
from attacks.network import Model


@dataclass(frozen=True)
class DDN(MinimalNorm):
    """Follow the gradient's direction; shrink the norm at adversarial points, and else increase it.

    δ ← δ + α_k ∇ℓ/‖∇ℓ‖₂, then ‖δ‖₂ ← ε_k with ε_{k+1} = (1 ∓ γ) ε_k: Rony et al. 2019 (arXiv
    1811.09600), alg. 1, without rounding to 8 bits. As long as no point is found, ε_{k+1} is at
    least the first-order distance to the boundary, as in FMN. Returns the nearest misclassified
    point, or x itself where none was found.

    Args:
        steps: number K of evaluations of the network; the last one needs no gradient.
        gamma: γ, in (0, 1).
        init_norm: ε₀ in input units, which also scales α (from ε₀ to ε₀/100 by a cosine, or from
            the nearest distance found if that is longer); None takes the first-order distance of
            each example to the boundary, which adapts to the units of x.
        bounds: valid inputs, None or (lo, hi); support: where x may change; see ``ThreatModel``.
        seed: seed of the random directions that replace gradients of exactly 0.
        mode: mode of the module while it is attacked (then restored): "eval", "train" or "keep".

    Raises:
        ValueError: an option is out of range, logits are NaN, or the batch is invalid.
    """

    _: KW_ONLY
    steps: int = 100
    gamma: float = 0.05
    init_norm: float | None = None
    bounds: Bounds = None
    support: Callable[[Tensor], Tensor] | None = None
    seed: int | None = 0
    mode: str = "eval"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(2, steps=self.steps)
        check_number("strictly between 0 and 1", gamma=self.gamma)
        check_number("above 0", **given(init_norm=self.init_norm))
        check_seed(self.seed)

    def _search(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        bounds, furthest = bounds_around(self.bounds, x), farthest(x, self.bounds, "l2")
        allowed = None if self.support is None else self.support(x)
        generator = generator_for(self.seed, x)
        nearest, x_adv = nothing_found(x), x
        scale = eps = furthest  # set at the first step
        for k in range(self.steps - 1):
            logits, _, grad = loss_and_gradient(model, x_adv, y, log_odds)
            grad = unblocked(grad, x_adv, bounds, allowed)
            broken = misclassified(logits, y)
            r = lengths(x_adv - x, "l2")
            nearest = nearest.update(x_adv, r, broken)
            # the class changes where the margin is 0, not where the log-odds are 0
            distance = first_order_distance(margin(logits, y), grad, "l2")
            if k == 0:
                scale = eps = self._scale(distance)
            flat = lengths(grad, "linf") == 0
            if bool(flat.any()):
                noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
                noise = noise if allowed is None else torch.where(allowed, noise, 0.0)
                grad = torch.where(per_example(flat, x).bool(), noise, grad)
            # the first estimate may be far below the distances that are found later
            length = torch.where(nearest.found, torch.maximum(nearest.r, scale), scale)
            alpha = length * (0.01 + 0.99 * (1 + math.cos(math.pi * k / self.steps)) / 2)
            delta = x_adv - x + per_example(alpha, x) * unit(grad, "l2")
            further = (r + distance).nan_to_num(0.0, posinf=0.0)
            further = torch.where(nearest.found, 0.0, further)
            grown = torch.maximum((1 + self.gamma) * eps, further)
            eps = torch.where(broken, (1 - self.gamma) * eps, grown)
            eps = torch.minimum(eps, furthest)
            x_adv = clip(x + per_example(eps, x) * unit(delta, "l2"), bounds)
        broken = misclassified(predict(model, x_adv, y), y)
        return nearest.update(x_adv, lengths(x_adv - x, "l2"), broken).x_adv

    def _scale(self, distance: Tensor) -> Tensor:
        if self.init_norm is not None:
            return torch.full_like(distance, self.init_norm)
        return distance.nan_to_num(1.0, posinf=1.0)
