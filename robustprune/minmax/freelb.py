"""FreeLB: every step of the inner attack also gives a gradient for the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import PGD
from attacks.inputs import generator_for
from attacks.network import logits_of
from attacks.scale import scaled
from robustprune.minmax.objectives import check_not_negative, check_one_run, ramp
from robustprune.minmax.result import StepResult, tally


class _Carried(torch.autograd.Function):
    """Map (value, gradients, parameters) to the value, with the given gradients as its gradient."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, grads: Sequence[Tensor], *parameters: nn.Parameter
    ) -> Tensor:
        ctx.grads = grads
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(outer[0] * grad for grad in ctx.grads))


@dataclass(frozen=True)
class FreeLB:
    """Minimise E (1/K) Σ_k ℓ(f(x + δ_k), y) over the K points δ_{k+1} = Π(δ_k + α g/‖g‖).

    See Zhu et al. 2020 (arXiv 1909.11764), alg. 1. The backward pass that moves δ also gives the
    gradient of the weights, so a step costs K forward and K backward passes, which is one pair
    less than adversarial training with K steps.

    Attributes:
        attack: the PGD whose threat model, steps, step size, random start and seed are used. The
            model stays in train mode, and the loss is the cross-entropy.
        warmup: the number of epochs in which ε grows linearly from zero; 0 for none.

    Raises:
        ValueError: `attack` is no PGD, or has restarts, early stop, momentum or another loss.
    """

    attack: PGD
    warmup: float = 0.0
    moves_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_not_negative(warmup=self.warmup)
        if not isinstance(self.attack, PGD):
            raise ValueError(f"FreeLB needs PGD as its attack, not {type(self.attack).__name__}")
        check_one_run("FreeLB", self.attack)
        if self.attack.momentum or self.attack.loss != "ce":
            raise ValueError(
                f"FreeLB climbs the cross-entropy by its plain gradient, not momentum="
                f"{self.attack.momentum} with loss={self.attack.loss!r}; leave both out"
            )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        attack = scaled(self.attack, ramp(epoch, self.warmup))
        assert isinstance(attack, PGD)
        x, threat, steps = x.detach(), attack.threat, attack.steps
        project = threat.projector(x)
        ascend = threat.ascent(x, attack.alpha(threat), project)
        x_adv = attack.start(threat, x, project, generator_for(attack.seed, x))
        parameters = [p for p in model.parameters() if p.requires_grad]
        total, grads = x.new_zeros(()), [torch.zeros_like(p) for p in parameters]
        for _ in range(steps):
            point = x_adv.detach().requires_grad_()
            logits = logits_of(model, point)
            loss = F.cross_entropy(logits, y)
            # masked weights are computed once per step and shared, so their graph must be kept
            grad, *ours = torch.autograd.grad(
                loss, [point, *parameters], retain_graph=True, materialize_grads=True
            )
            total = total + loss.detach() / steps
            torch._foreach_add_(grads, ours, alpha=1 / steps)
            x_adv = ascend(x_adv, grad)
        carried = _Carried.apply(total, grads, *parameters)
        assert isinstance(carried, Tensor)
        return StepResult(carried, *tally(logits, y), adversarial=True)
