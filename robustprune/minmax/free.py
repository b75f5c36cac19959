"""Free adversarial training: one backward pass updates both the weights and the perturbation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import ThreatModel
from attacks.network import logits_of
from robustprune.minmax.result import StepResult, tally


class Free:
    """Minimise E max_δ ℓ(f(x+δ), y), where δ is kept from one step to the next.

    This is Shafahi et al. 2019 (arXiv 1904.12843), alg. 1. Each batch must come several times in a
    row, so give the loop `Repeated(loader, replays)`. The gradient for δ is the one that the outer
    backward pass leaves at the input, so a step costs one forward and one backward pass. δ starts
    at zero in each epoch and is projected again for each batch. A checkpoint contains it.

    Args:
        threat: the threat model, with ε and bounds.
        step_size: the step size of δ, in input units; None for ε, as in the paper.

    Raises:
        ValueError: `step_size` is not positive and finite.
    """

    moves_inputs = True

    def __init__(self, threat: ThreatModel, *, step_size: float | None = None) -> None:
        if step_size is not None and not 0 < step_size < math.inf:
            raise ValueError(f"step_size={step_size} must be positive and finite, in input units")
        self.threat = threat
        self.step_size = threat.eps if step_size is None else step_size
        self._epoch = math.inf
        self._last: tuple[Tensor, Tensor] | None = None  # (x, x_adv) of the step before
        self._resumed: Tensor | None = None  # δ, where a checkpoint had it

    def before_epoch(self, model: nn.Module, epoch: int) -> None:
        """Forget δ before epoch 0, where another training begins, such as a lottery's next
        round."""
        if epoch == 0:
            self._epoch, self._last, self._resumed = math.inf, None, None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        delta = self._carried(epoch, x)
        x_adv = self.threat.project(x, x + delta).requires_grad_()
        self._last, self._resumed = (x, x_adv), None
        logits = logits_of(model, x_adv)
        return StepResult(F.cross_entropy(logits, y), *tally(logits, y), adversarial=True)

    def _carried(self, epoch: float, x: Tensor) -> Tensor:
        before_that, self._epoch = self._epoch, epoch
        # a smaller epoch belongs to another training
        if before_that > epoch or int(before_that) != int(epoch):
            return torch.zeros_like(x)
        delta = self._next_delta()
        return delta[: len(x)].to(x) if len(delta) >= len(x) else torch.zeros_like(x)

    def _next_delta(self) -> Tensor:
        """Return the δ with which the next step starts."""
        if self._last is None:
            assert self._resumed is not None
            return self._resumed
        before, x_adv = self._last
        if x_adv.grad is None:
            raise RuntimeError("Free needs a backward pass between two calls")
        moved = x_adv.detach() + self.threat.step(x_adv.grad, self.step_size)
        return self.threat.project(before, moved) - before

    def state_dict(self) -> dict[str, Tensor]:
        """Return δ of the next step and the last step's epoch (float64), or {} before the first."""
        if math.isinf(self._epoch):
            return {}
        epoch = torch.tensor(self._epoch, dtype=torch.float64)
        return {"delta": self._next_delta(), "epoch": epoch}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a result of `state_dict`."""
        self._last, self._resumed = None, state.get("delta")
        self._epoch = float(state["epoch"]) if state else math.inf


class Repeated:
    """A loader that yields each batch of another loader `times` times in a row."""

    def __init__(self, loader: Any, times: int) -> None:
        if times < 1:
            raise ValueError(f"times={times} must be at least 1")
        self.loader, self.times = loader, times
        self._batch: Sequence[Tensor] = ()
        self._begun = self._left = 0  # batches begun; repeats left of the last one
        self._resumed = False

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        if not self._resumed:
            self._begun = self._left = 0
        self._resumed = False
        # if only repeats of the last batch are left, the loader is at its start again
        last = self._left > 0 and self._begun == len(self.loader)
        yield from self._repeats()
        if not last:
            for batch in self.loader:
                self._batch, self._left = batch, self.times
                self._begun += 1
                yield from self._repeats()
        self._begun = 0

    def _repeats(self) -> Iterator[Sequence[Tensor]]:
        while self._left > 0:
            self._left -= 1
            yield self._batch

    def __len__(self) -> int:
        return self.times * len(self.loader)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the loader's position, with the present batch where repeats of it are left, or {}
        where the loader has no state."""
        state: dict[str, Tensor] = getattr(self.loader, "state_dict", dict)()
        if not state:
            return {}
        batch = {f"repeat.{i}": part for i, part in enumerate(self._batch if self._left else ())}
        place = torch.tensor([self._begun, self._left])
        return {**state, **batch, "repeat.place": place}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a result of `state_dict`."""
        if not hasattr(self.loader, "load_state_dict"):
            return
        inner = {name: part for name, part in state.items() if not name.startswith("repeat.")}
        self.loader.load_state_dict(inner)
        self._begun, self._left = state["repeat.place"].tolist()
        self._batch = [state[f"repeat.{i}"] for i in range(len(state) - len(inner) - 1)]
        self._resumed = True
