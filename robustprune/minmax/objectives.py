"""Outer objectives: the loss that one step descends, as a function of model and batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from attacks import Attack


@dataclass(frozen=True)
class StepResult:
    """What one evaluation of an objective yields.

    Attributes:
        loss: scalar, differentiable in whatever is trained.
        logits: (N, C), outputs on the examples that were trained on.
        adversarial: whether those examples were attacked.
    """

    loss: Tensor
    logits: Tensor
    adversarial: bool


#: (model, x, y) -> StepResult
Objective = Callable[[nn.Module, Tensor, Tensor], StepResult]


@dataclass(frozen=True)
class Natural:
    """Plain cross-entropy, E ℓ(f(x), y)."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> StepResult:
        logits = model(x)
        return StepResult(F.cross_entropy(logits, y), logits, adversarial=False)


@dataclass(frozen=True)
class Adversarial:
    """Adversarial training, E max_{‖δ‖≤ε} ℓ(f(x+δ), y), Madry et al. 2018 (arXiv 1706.06083,
    Eq. 2.1). The inner maximum is approximated by `attack`, which also decides in which mode
    (train or eval) the model runs meanwhile."""

    attack: Attack

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> StepResult:
        logits = model(self.attack(model, x, y))
        return StepResult(F.cross_entropy(logits, y), logits, adversarial=True)
