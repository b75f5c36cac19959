"""Edge-popup: learn which weights to keep by a score for each, never touching the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from robustprune.sparsity import (
    Groups,
    MaskSet,
    PatternName,
    allocation,
    group_weight,
    top_k,
)
from robustprune.sparsity.allocation import AllocationName


class _StraightThrough(torch.autograd.Function):
    """(s, θ, m) ↦ m ⊙ θ, whose gradient goes to s as if m were |s|:

        ∂L/∂s = ∂L/∂W ⊙ θ ⊙ sign(s)

    (arXiv 1911.13299, Eq. 5; arXiv 2110.14068, Sec. 3.2). θ gets no gradient.
    """

    @staticmethod
    def forward(ctx: Any, score: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(score, weight)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        score, weight = ctx.saved_tensors
        return (grads[0] * weight).mul_(score.sign()), None, None


class Popup(nn.Module):
    """Parametrization θ ↦ m(s) ⊙ θ; m keeps the `kept` groups with the largest Σ|s|.

    The scores start Kaiming uniform, U(−1/√n, 1/√n) for fan in n (a = √5).
    """

    def __init__(
        self, weight: Tensor, groups: Groups, kept: int, *, generator: torch.Generator
    ) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(groups.fan_in)
        drawn = torch.empty(groups.shape).uniform_(-bound, bound, generator=generator)
        self.score = nn.Parameter(drawn.to(weight.device))
        self.groups, self.kept = groups, kept

    # `kept` belongs to the state: a checkpoint, or an epoch chosen by validation, brings it back.
    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.kept)

    def set_extra_state(self, state: Tensor) -> None:
        self.kept = int(state)

    def mask(self) -> Tensor:
        """Boolean, of the weight's shape."""
        with torch.no_grad():
            return self.groups.expand(top_k(self.groups.reduce(self.score), self.kept))

    def forward(self, weight: Tensor) -> Tensor:
        masked = _StraightThrough.apply(self.score, weight, self.mask())
        assert isinstance(masked, Tensor)
        return masked


class ScoreTopK:
    """Constraint m = top-k of |score|; puts a `Popup` on each of the layers of a frozen network.

    With allocation "global" the number that each layer keeps follows the scores, once per step.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        *,
        density: float,
        pattern: PatternName,
        allocate: AllocationName,
        generator: torch.Generator,
    ) -> None:
        self.density, self.allocate = density, allocation(allocate)
        self.follows_scores = allocate == "global"
        self.popups: dict[str, Popup] = {}
        for name, layer in layers.items():
            weight = layer.weight
            assert isinstance(weight, Tensor)
            groups = group_weight(layer, pattern)
            self.popups[name] = Popup(weight, groups, groups.number, generator=generator)
            parametrize.register_parametrization(layer, "weight", self.popups[name], unsafe=True)
        self._allot()

    @torch.no_grad()
    def _allot(self) -> None:
        values = {name: popup.groups.reduce(popup.score) for name, popup in self.popups.items()}
        for name, kept in self.allocate(values, self.density).items():
            self.popups[name].kept = kept

    def scores(self) -> list[nn.Parameter]:
        return [popup.score for popup in self.popups.values()]

    def after_step(self, model: nn.Module, step: int) -> None:
        if self.follows_scores:
            self._allot()

    def masks(self, model: nn.Module) -> MaskSet:
        return MaskSet({name: popup.mask() for name, popup in self.popups.items()})
