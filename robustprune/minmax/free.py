"""Free adversarial training: one backward pass moves the weights and the perturbation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import ThreatModel
from robustprune.minmax.objectives import StepResult


class Free:
    """E max_δ ℓ(f(x+δ), y) with δ carried from step to step: Shafahi et al. 2019
    (arXiv 1904.12843), alg. 1. Each batch has to come several times in a row; give the loop
    `Repeated(loader, replays)`.

    The gradient for δ is what the outer backward pass leaves at the input, so a step costs one
    forward and one backward pass. δ starts at zero in each epoch (so that a training resumed
    between epochs goes on alike) and is projected anew for each batch.

    Args:
        threat: ε and bounds.
        step_size: of δ in input units; None for ε, as in the paper.
    """

    def __init__(self, threat: ThreatModel, *, step_size: float | None = None) -> None:
        self.threat = threat
        self.step_size = threat.eps if step_size is None else step_size
        self._epoch = math.inf
        self._last: tuple[Tensor, Tensor] | None = None  # (x, x_adv) of the step before

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        delta = self._carried(epoch, x)
        x_adv = self.threat.project(x, x + delta).requires_grad_()
        self._last = (x, x_adv)
        logits = model(x_adv)
        return StepResult(F.cross_entropy(logits, y), logits, adversarial=True)

    def _carried(self, epoch: float, x: Tensor) -> Tensor:
        before_that, self._epoch = self._epoch, epoch
        # a smaller epoch is another training's: a lottery's next round
        if self._last is None or before_that > epoch or int(before_that) != int(epoch):
            return torch.zeros_like(x)
        before, x_adv = self._last
        if x_adv.grad is None:
            raise RuntimeError("Free needs a backward pass between two calls")
        moved = x_adv.detach() + self.threat.step(x_adv.grad, self.step_size)
        delta = self.threat.project(before, moved) - before
        return delta[: len(x)] if len(delta) >= len(x) else torch.zeros_like(x)


class Repeated:
    """A loader whose batches come `times` times in a row each."""

    def __init__(self, loader: Any, times: int) -> None:
        if times < 1:
            raise ValueError(f"times={times} must be at least 1")
        self.loader, self.times = loader, times

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        for batch in self.loader:
            for _ in range(self.times):
                yield batch

    def __len__(self) -> int:
        return self.times * len(self.loader)

    def state_dict(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = getattr(self.loader, "state_dict", dict)()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if hasattr(self.loader, "load_state_dict"):
            self.loader.load_state_dict(state)
