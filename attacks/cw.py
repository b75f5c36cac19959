"""Carlini & Wagner's L2 attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from attacks.box import Bounds, bounds_around, tensors_of
from attacks.geometry import brief, lengths
from attacks.inputs import (
    check_at_least,
    check_finite,
    check_gradient,
    check_graph,
    check_logits,
    check_number,
)
from attacks.losses import margin
from attacks.nearest import MinimalNorm, nothing_found
from attacks.network import Model, logits_of


@dataclass(frozen=True)
class CW(MinimalNorm):
    """Minimise ‖δ‖₂² + c · max(z_y − max_{j≠y} z_j, −κ) by Adam, c by bisection.

    Carlini & Wagner 2017 (arXiv 1608.04644), §V. With bounds, x + δ = lo + (hi − lo) (tanh w + 1)/2
    is optimised over w; without bounds, over δ itself. Returns the nearest misclassified point, or
    x itself where none was found.

    Args:
        steps: number of Adam steps for each c.
        searches: number of values of c that are tried for each example.
        initial_c: the first value of c.
        learning_rate: learning rate of Adam, for w, or for δ in input units if there are no bounds.
        confidence: κ ≥ 0, the margin by which the other class must lead.
        bounds: valid inputs, None or (lo, hi); support: where x may change; see ``ThreatModel``.
        mode: mode of the module while it is attacked (then restored): "eval", "train" or "keep".

    Raises:
        ValueError: an option is out of range, logits are NaN, or the batch is invalid.
    """

    _: KW_ONLY
    steps: int = 100
    searches: int = 9
    initial_c: float = 1e-2
    learning_rate: float = 1e-2
    confidence: float = 0.0
    bounds: Bounds = None
    support: Callable[[Tensor], Tensor] | None = None
    mode: str = "eval"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, steps=self.steps, searches=self.searches)
        if self.bounds and not all(torch.as_tensor(end).isfinite().all() for end in self.bounds):
            raise ValueError(f"bounds={brief(self.bounds)} must be finite, or None")
        check_number("above 0", initial_c=self.initial_c, learning_rate=self.learning_rate)
        check_number("at least 0", confidence=self.confidence)

    def _search(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        start, decode = self._change_of_variables(x)
        allowed = None if self.support is None else self.support(x)
        nearest = nothing_found(x)
        low, high = torch.zeros(len(x)).to(x), torch.full((len(x),), torch.inf).to(x)
        c = torch.full_like(low, self.initial_c)
        for _ in range(self.searches):
            w = start.clone().requires_grad_()
            optimizer = torch.optim.Adam([w], lr=self.learning_rate)
            succeeded = torch.zeros_like(y, dtype=torch.bool)
            for _ in range(self.steps):
                x_adv = decode(w) if allowed is None else torch.where(allowed, decode(w), x)
                logits = logits_of(model, x_adv)
                check_logits(logits, y)
                check_finite(logits)
                check_graph(logits)
                lead = margin(logits, y)
                squared = (x_adv - x).flatten(1).square().sum(1)
                loss = squared + c * (self.confidence - lead).clamp_min(0)
                if logits.dtype == torch.float16:  # c may exceed the largest float16
                    loss = loss / c.clamp_min(1)  # Adam does not depend on the scale of the loss
                (w.grad,) = torch.autograd.grad(loss.sum(), w)
                check_gradient(w.grad)
                point = x_adv.detach()
                broken = (lead > 0) & (lead >= self.confidence)
                succeeded |= broken
                nearest = nearest.update(point, lengths(point - x, "l2"), broken)
                optimizer.step()
            low, high = torch.where(succeeded, low, c), torch.where(succeeded, c, high)
            c = torch.where(high.isinf(), 10 * c, (low + high) / 2)
        return nearest.x_adv

    def _change_of_variables(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the start of w, and the function w ↦ x_adv."""
        fitted = bounds_around(self.bounds, x)
        if fitted is None:
            return x, lambda w: w
        lo, hi = tensors_of(fitted, x)
        # atanh is infinite at ±1: start slightly inside
        inner = (2 * (x - lo) / (hi - lo) - 1) * (1 - 1e-6)
        start = inner.atanh()
        # the same factor is divided out, so that w = start gives x up to rounding
        return start, lambda w: lo + (hi - lo) * (torch.tanh(w) / (1 - 1e-6) + 1).clamp(0, 2) / 2
