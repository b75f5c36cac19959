"""What the minimal-norm attacks share: nearest point so far, first-order distance, line search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.box import Bounds, bounds_around, check_bounds, tensors_of
from attacks.geometry import DUAL, check_norm, lengths, per_example
from attacks.inputs import Configured, batch_of, misclassified, predict
from attacks.losses import margin, spread
from attacks.modes import attacking, check_mode
from attacks.network import Model


class MinimalNorm(Configured, ABC):
    """The base of the attacks that look for the nearest adversarial example: frozen dataclasses
    with these fields (without ``norm``: L2) and a ``_search``."""

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
            return self._search(model, x, y)

    @abstractmethod
    def _search(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """The nearest misclassified points, or x itself where none was found."""


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
    """The start: x itself at distance ∞."""
    return Nearest(x.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device))


def farthest(x: Tensor, bounds: Bounds, norm: str) -> Tensor:
    """The greatest distance that the bounds allow, shape (N,); ∞ without bounds."""
    fitted = bounds_around(bounds, x)
    if fitted is None:
        return torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    lo, hi = tensors_of(fitted, x)
    return lengths(torch.maximum(x - lo, hi - x), norm)


def first_order_distance(value: Tensor, grad: Tensor, norm: str) -> Tensor:
    """|g| / ‖∇g‖_dual: how far the boundary g = 0 lies if g is linear; ∞ where ∇g = 0, or so near
    to it that the boundary is out of `reach`."""
    distance = value.abs() / lengths(grad, DUAL[norm])
    return torch.where(distance > reach(value), torch.inf, distance)


def reach(x: Tensor) -> float:
    """No attack goes further than this, a number whose square does not overflow in x's dtype: a
    saturated network has next to no gradient, and its linearised boundary lies anywhere."""
    return float(torch.finfo(x.dtype).max ** 0.4)


def between(model: Model, x: Tensor, x_adv: Tensor, y: Tensor, *, halvings: int) -> Tensor:
    """Bisect the segment from x to a misclassified x_adv for its nearest misclassified point."""
    if halvings == 0 or len(x) == 0:
        return x_adv
    inside, outside = torch.zeros(len(x)).to(x), torch.ones(len(x)).to(x)
    best = x_adv
    for _ in range(halvings):
        middle = (inside + outside) / 2
        point = x + per_example(middle, x) * (x_adv - x)
        broken = misclassified(predict(model, point, y), y)
        best = torch.where(per_example(broken, x).bool(), point, best)
        inside, outside = (
            torch.where(broken, inside, middle),
            torch.where(broken, middle, outside),
        )
    return best


def clears(logits: Tensor, y: Tensor, least: float) -> Tensor:
    """Whether another class leads y by ``least`` times the spread of the logits, shape (N,)."""
    return margin(logits, y) > least * spread(logits)
