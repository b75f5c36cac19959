"""Outer objectives: the loss that one step descends, as a function of model and batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from attacks import Attack
from attacks.scale import scaled


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


#: (model, x, y, epoch) -> StepResult; epoch counts fractions, for what changes as training goes on
Objective = Callable[[nn.Module, Tensor, Tensor, float], StepResult]


@dataclass(frozen=True)
class Natural:
    """Plain cross-entropy, E ℓ(f(x), y)."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        logits = model(x)
        return StepResult(F.cross_entropy(logits, y), logits, adversarial=False)


@dataclass(frozen=True)
class Adversarial:
    """Adversarial training, E max_{‖δ‖≤ε} ℓ(f(x+δ), y), Madry et al. 2018 (arXiv 1706.06083,
    Eq. 2.1). The inner maximum is approximated by `attack`, which also decides in which mode
    (train or eval) the model runs meanwhile.

    Attributes:
        warmup: epochs in which ε grows linearly from zero. Small networks may never leave the
            constant answer when they meet the whole of a large ε at once.
    """

    attack: Attack
    warmup: float = 0.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        factor = min(1.0, epoch / self.warmup) if self.warmup > 0 else 1.0
        logits = model(scaled(self.attack, factor)(model, x, y))
        return StepResult(F.cross_entropy(logits, y), logits, adversarial=True)
