"""Edge-popup: learn a score for each weight and keep the best, without changing the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from robustprune.minmax import Learned
from robustprune.sparsity import (
    Allocation,
    Groups,
    MaskSet,
    allot,
    groups_of,
    leaf_of,
    weights_of,
)
from robustprune.sparsity.apply import MaskParametrization
from robustprune.sparsity.criteria import at_least_float32
from robustprune.sparsity.ranking import check_scores


class _StraightThrough(torch.autograd.Function):
    """Map (s, θ, m) to m ⊙ θ, and compute the gradient for s as if m were |s|:

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


class Popup(MaskParametrization):
    """The parametrization θ ↦ m(s) ⊙ θ, where m keeps the `kept` groups with the largest Σ|s|.

    Args:
        score: the first scores, of the weight's shape.
    """

    def __init__(self, score: Tensor, groups: Groups, kept: int) -> None:
        super().__init__()
        self.score = nn.Parameter(score)
        self.groups, self.kept = groups, kept

    # `kept` is part of the state, so that a checkpoint or a chosen epoch restores it.
    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.kept)

    def set_extra_state(self, state: Tensor) -> None:
        self.kept = int(state)

    def mask(self, kept: int | None = None) -> Tensor:
        """Return the boolean mask, of the weight's shape. `kept` replaces its own number of
        groups."""
        with torch.no_grad():
            values = self.groups.reduce(self.score.abs())
            chosen = self.groups.choose(values, self.kept if kept is None else kept)
            return self.groups.expand(chosen)

    def forward(self, weight: Tensor) -> Tensor:
        masked = _StraightThrough.apply(self.score, weight, self.mask())
        assert isinstance(masked, Tensor)
        return masked


def random_scores(
    layers: Mapping[str, nn.Module], *, generator: torch.Generator
) -> dict[str, Tensor]:
    """Draw scores from U(−1/√n, 1/√n) for fan-in n (Kaiming uniform, a = √5), for scratch
    tickets."""
    scores, groups = {}, groups_of(layers)
    for name, weight in weights_of(layers).items():
        bound = 1.0 / math.sqrt(groups[name].fan_in)
        drawn = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
        scores[name] = drawn.to(weight.device)
    return scores


def scaled_scores(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return √(6/n) · w / max|w| for fan-in n, so that the largest weights have the largest scores
    at the start (Sehwag et al. 2020, arXiv 2002.10509, Eq. 3)."""
    scores, groups = {}, groups_of(layers)
    for name, weight in weights_of(layers).items():
        values = at_least_float32(weight.detach())
        scale = math.sqrt(6.0 / groups[name].fan_in)
        scores[name] = scale * values / values.abs().max().clamp_min(torch.finfo(values.dtype).tiny)
    return scores


class ScoreTopK(Learned):
    """Learn m = top-k of |score| with a `Popup` on each of the layers of a frozen network.

    With allocation "global", the number of weights that each layer keeps follows the scores at each
    step.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        *,
        density: float,
        pattern: str,
        allocate: Allocation,
        scores: Mapping[str, Tensor],
    ) -> None:
        self.density, self.allocate = density, allocate
        check_scores(scores)
        self.popups: dict[str, Popup] = {}
        for name, groups in groups_of(layers, pattern, allocate=allocate).items():
            self.popups[name] = Popup(scores[name].clone(), groups, groups.number)
            parametrize.register_parametrization(
                layers[name], leaf_of(layers[name], name), self.popups[name], unsafe=True
            )
        self._allot()

    @torch.no_grad()
    def _allot(self) -> None:
        groups = {name: popup.groups for name, popup in self.popups.items()}
        values = {n: popup.groups.reduce(popup.score.abs()) for n, popup in self.popups.items()}
        for name, kept in allot(values, groups, self.density, self.allocate).items():
            self.popups[name].kept = kept

    def parameters(self) -> list[nn.Parameter]:
        return [popup.score for popup in self.popups.values()]

    def after_step(self, model: nn.Module, step: int) -> None:
        if self.allocate == "global":
            self._allot()

    def masks(self, model: nn.Module) -> MaskSet:
        return MaskSet({name: popup.mask() for name, popup in self.popups.items()})
