"""Adversarial weight perturbation: train where the loss stays low around the weights, too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustprune.minmax.dense import masked_weights
from robustprune.minmax.objectives import check_not_negative, refuse_perturbed
from robustprune.minmax.result import Loss, Objective, StepResult, points_of, prepared
from robustprune.run.runtime import step_together
from robustprune.sparsity import computed_once


@dataclass(frozen=True)
class Awp:
    """Minimise E max_{‖v_l‖ ≤ γ ‖w_l‖} L(w + v), for the loss L of another objective: AWP.

    The maximum is that of one step along the gradient of the batch, for each layer l by itself,

        v_l = γ ‖w_l‖ ∇_l L(w) / ‖∇_l L(w)‖,

    and the gradient at w + v moves w. See Wu et al. 2020 (arXiv 2004.05884, Eq. 7 to 11). The
    adversarial examples are those of w, made once; weight decay is that of w. A step costs one more
    forward and backward pass.

    What is trained is what is perturbed, if it has two dimensions or more: kernels and matrices,
    pruned weights left out, and in a search that trains scores these, before the mask is drawn from
    them. That is S2AP (Piras et al. 2025, arXiv 2510.18381): ‖z_l‖ ≤ γ ‖s_l‖ for the scores s.

    Attributes:
        objective: the objective whose loss is made flat. If it has no method `prepared`, its attack
            runs twice. One that keeps a state from step to step, as `Free`, does not go with it.
        gamma: γ ≥ 0, the relative size of the perturbation (5e-3 in the paper); 0 for none.
        start: the number of epochs without perturbation before.

    Raises:
        ValueError: γ or `start` is negative or not finite, or the objective keeps a state or is an
            Awp itself.
    """

    objective: Objective
    gamma: float = 5e-3
    start: float = 0.0

    def __post_init__(self) -> None:
        check_not_negative(gamma=self.gamma, start=self.start)
        if hasattr(self.objective, "state_dict"):
            raise ValueError(
                f"{type(self.objective).__name__} keeps a state from step to step, which does not "
                "go with a loss that each step evaluates twice; take another objective"
            )
        refuse_perturbed(self.objective)

    @property
    def moves_inputs(self) -> bool:
        return bool(getattr(self.objective, "moves_inputs", False))

    @property
    def class_labels(self) -> bool:
        return bool(getattr(self.objective, "class_labels", True))

    def before_epoch(self, model: nn.Module, epoch: int) -> None:
        own = getattr(self.objective, "before_epoch", None)
        if own is not None:
            own(model, epoch)

    def points(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Tensor:
        return points_of(self.objective, model, x, y, epoch)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        """Return the loss at the weights as they are. The training loop perturbs them, by
        `around`."""
        return self.objective(model, x, y, epoch)

    @contextmanager
    def around(
        self,
        model: nn.Module,
        moving: Sequence[nn.Parameter],
        x: Tensor,
        y: Tensor,
        epoch: float,
        share: float = 1.0,
    ) -> Iterator[Loss]:
        """Perturb what moves inside this context, and yield the loss of the same examples.

        Afterwards the weights are bit for bit what they were. Enter it before masked weights are
        computed for the step.

        Args:
            moving: the parameters that are trained.
            share: this rank's share of the batch, over which gradients are averaged.
        """
        with computed_once(model):
            loss = prepared(self.objective, model, x, y, epoch)
            perturbed = self.gamma > 0 and epoch >= self.start
            chosen = [p for p in moving if p.ndim > 1] if perturbed else []
            steps = self._steps(model, chosen, loss, share) if chosen else []
        before = [parameter.detach().clone() for parameter in chosen]
        try:
            with torch.no_grad():
                for parameter, step in zip(chosen, steps, strict=True):
                    parameter.add_(step)
            yield loss
        finally:
            with torch.no_grad():
                for parameter, value in zip(chosen, before, strict=True):
                    parameter.copy_(value)

    def _steps(
        self, model: nn.Module, chosen: Sequence[nn.Parameter], loss: Loss, share: float
    ) -> list[Tensor]:
        """Return v of each parameter; 0 where the gradient is zero or not finite."""
        masks: dict[int, Tensor] = {}
        for name, (layer, masked) in masked_weights(model).items():
            stored = layer.parametrizations[name.rpartition(".")[2]].original  # type: ignore[union-attr, index]
            masks |= {id(p): masked.mask for p in (stored, *masked.parameters(recurse=False))}
        with kept_buffers(model):
            value = loss(model).loss
            gradients = [*torch.autograd.grad(value, chosen, materialize_grads=True)]
            step_together(value, (), model, share, others=gradients)
        steps = []
        for parameter, gradient in zip(chosen, gradients, strict=True):
            weight = parameter.detach()
            if (mask := masks.get(id(parameter))) is not None:
                weight, gradient = weight * mask, gradient * mask
            scale = self.gamma * weight.norm() / gradient.norm()
            steps.append(gradient * torch.where(scale.isfinite(), scale, 0.0))
        return steps


def loss_of_step(
    objective: Objective,
    model: nn.Module,
    moving: Sequence[nn.Parameter],
    x: Tensor,
    y: Tensor,
    epoch: float,
    share: float = 1.0,
) -> AbstractContextManager[Loss]:
    """Return a context in which the weights are where the objective wants them for this step, and
    which yields the loss there; see `Awp.around`."""
    around: Any = getattr(objective, "around", None)
    if around is not None:
        found: AbstractContextManager[Loss] = around(model, moving, x, y, epoch, share)
        return found
    return _as_they_are(lambda network: objective(network, x, y, epoch))


@contextmanager
def _as_they_are(loss: Loss) -> Iterator[Loss]:
    yield loss


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the buffers of a model, such as running statistics, after this context, those too
    that a layer replaces by new tensors."""
    before = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in before:
                buffer.copy_(value)
                module._buffers[name] = buffer
