"""Parts shared by minimal-norm attacks: nearest point, first-order distance, line search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attacks.box import Bounds, bounds_around, bounds_like, check_bounds, tensors_of
from attacks.geometry import DUAL, check_norm, lengths, per_example
from attacks.inputs import Configured, batch_of, misclassified, predict
from attacks.losses import margin, spread
from attacks.modes import attacking, check_mode
from attacks.network import Model, logits_of
from attacks.rounding import widened


class MinimalNorm(Configured, ABC):
    """The base of the attacks that search for the nearest adversarial example.

    Subclasses are frozen dataclasses with these fields (those without ``norm`` use L2) and a
    ``_search``. In half precision, the search holds its point in float32 and rounds it only for the
    network, because the last steps to the boundary are shorter than the distance of two float16
    numbers.
    """

    norm: str = "l2"
    bounds: Bounds
    mode: str

    def __post_init__(self) -> None:
        check_norm(self.norm)
        check_mode(self.mode)
        check_bounds(self.bounds)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        x, y = batch_of(x, y, bounds=self.bounds)
        if len(x) == 0:
            return x.clone()
        with attacking(model, self.mode):
            if widened(x) is x:
                return self._search(model, x, y)
            config: Any = self
            fitted = bounds_like(self.bounds, x)
            rounded = replace(config, bounds=None if fitted is None else tensors_of(fitted, x))
            limit = lengths(x, "linf").amax() + reach(x)

            def narrowed(held: Tensor) -> Tensor:
                return held.clamp(-limit, limit).to(x.dtype)

            def answer(held: Tensor) -> Tensor:
                return logits_of(model, narrowed(held))

            return narrowed(rounded._search(answer, widened(x), y))

    @abstractmethod
    def _search(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Return the nearest misclassified points, or x itself where none was found."""


class Nearest(NamedTuple):
    """The nearest misclassified point of every example so far; r = ∞ where there is none."""

    x_adv: Tensor
    r: Tensor

    def update(self, x_adv: Tensor, r: Tensor, broken: Tensor) -> Nearest:
        nearer = broken & (r < self.r)
        rows = per_example(nearer, x_adv).bool()
        return Nearest(torch.where(rows, x_adv, self.x_adv), torch.where(nearer, r, self.r))

    @property
    def found(self) -> Tensor:
        return self.r.isfinite()


def nothing_found(x: Tensor) -> Nearest:
    """Return the start of a search: x itself at distance ∞, in float32 or wider."""
    return Nearest(x.clone(), widened(x).new_full((len(x),), torch.inf))


def farthest(x: Tensor, bounds: Bounds, norm: str) -> Tensor:
    """Return the largest distance that the bounds allow, shape (N,); ∞ without bounds."""
    fitted = bounds_around(bounds, x)
    if fitted is None:
        return torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    lo, hi = tensors_of(fitted, x)
    return lengths(torch.maximum(x - lo, hi - x), norm)


def first_order_distance(value: Tensor, grad: Tensor, norm: str) -> Tensor:
    """Return |g| / ‖∇g‖_dual, the distance to the boundary g = 0 if g were linear.

    It is ∞ where ∇g is 0, or so small that the boundary is beyond `reach`.
    """
    distance = value.abs() / lengths(grad, DUAL[norm])
    return torch.where(distance > reach(value), torch.inf, distance)


def reach(x: Tensor) -> float:
    """Return the largest distance of an attack; its square does not overflow in x's dtype.

    A saturated network has almost no gradient, and its linearised boundary may be anywhere.
    """
    return float(torch.finfo(x.dtype).max ** 0.4)


def between(model: Model, x: Tensor, x_adv: Tensor, y: Tensor, *, halvings: int) -> Tensor:
    """Bisect the segment from x to a misclassified x_adv for its nearest misclassified point."""
    if halvings == 0 or len(x) == 0:
        return x_adv
    centre = widened(x)
    inside, outside = torch.zeros(len(x)).to(centre), torch.ones(len(x)).to(centre)
    best = x_adv
    for _ in range(halvings):
        middle = (inside + outside) / 2
        point = (centre + per_example(middle, centre) * (x_adv - centre)).to(x)
        broken = misclassified(predict(model, point, y), y)
        best = torch.where(per_example(broken, x).bool(), point, best)
        inside, outside = (
            torch.where(broken, inside, middle),
            torch.where(broken, middle, outside),
        )
    return best


def clears(logits: Tensor, y: Tensor, least: float) -> Tensor:
    """Return whether another class leads y by ``least`` times the spread of the logits, (N,)."""
    return margin(logits, y) > least * spread(logits)
