"""Compute running averages of a training epoch and show them in a progress bar."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

import torch
from torch import Tensor, nn

from attacks.modes import evaluating
from attacks.network import logits_of
from robustprune.minmax.result import StepResult, tally
from robustprune.run.progress import Progress
from robustprune.run.runtime import summed

#: In adversarial training, clean batch accuracy needs one more forward pass, and reading a number
#: from an accelerator makes it wait. So both happen only once in this many steps.
LOOK_EVERY = 10


class Meter:
    """Average loss, clean and robust batch accuracy over an epoch, and show them as a bar."""

    bar: Progress

    def __init__(self, title: str, *, epochs: int, length: int | None, quiet: bool) -> None:
        self.title, self.epochs, self.length, self.quiet = title, epochs, length, quiet
        self.epoch = 0
        self._reset()

    def _reset(self) -> None:
        self.steps = 0
        self.seen: Tensor | int = 0
        self.looked_at: Tensor | int = 0
        self.loss: Tensor | float = 0.0
        self.correct: Tensor | int = 0
        self.clean_correct: Tensor | int = 0
        self.adversarial = False

    def __enter__(self) -> Meter:
        done = self.epoch * (self.length or 0) + self.steps
        self.bar = Progress(
            self.epochs * self.length if self.length else None,
            title=self.title,
            unit="step",
            quiet=self.quiet,
            done=done,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.__exit__(kind, error, trace)

    @torch.no_grad()
    def update(self, result: StepResult, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Count one step. Call it before the weights change."""
        self.loss = self.loss + result.loss.detach() * result.counted
        self.correct = self.correct + result.right
        self.seen = self.seen + result.counted
        self.adversarial = result.adversarial
        if self.steps % LOOK_EVERY == 0:
            if self.adversarial:
                with evaluating(model):
                    right, counted = tally(logits_of(model, x), y)
                self.clean_correct = self.clean_correct + right
                self.looked_at = self.looked_at + counted
            if not self.quiet:
                self._show()
        self.steps += 1
        self.bar.update()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums of the present epoch and its number, (7,) float64."""
        sums = (self.loss, self.correct, self.seen, self.clean_correct, self.looked_at)
        whole = [float(value) for value in (*sums, self.steps, self.epoch)]
        return {"sums": torch.tensor(whole, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a result of `state_dict`, before the bar is shown."""
        self.loss, *counts = state["sums"].tolist()
        whole = [int(count) for count in counts]
        self.correct, self.seen, self.clean_correct, self.looked_at, self.steps, self.epoch = whole

    def averages(self) -> tuple[float, float | None, float | None]:
        """Return (loss, clean accuracy, robust accuracy), with None for what was not measured."""
        seen = max(float(self.seen), 1.0)  # a batch may hold no token that counts
        loss, accuracy = float(self.loss) / seen, float(self.correct) / seen
        if not self.adversarial:
            return loss, accuracy, None
        return loss, float(self.clean_correct) / max(float(self.looked_at), 1.0), accuracy

    def end_of_epoch(self) -> tuple[float, float | None, float | None]:
        """Return the averages of the epoch and start the next one."""
        sums = (self.loss, self.correct, self.seen, self.clean_correct, self.looked_at)
        self.loss, self.correct, self.seen, self.clean_correct, self.looked_at = summed(
            torch.tensor([float(value) for value in sums], dtype=torch.float64)
        ).tolist()
        averages = self.averages()
        if not self.quiet:
            self._show()
            self.bar.end_part()
        self.epoch += 1
        self._reset()
        return averages

    def _show(self) -> None:
        loss, clean, robust = self.averages()
        title = f"{self.title} · epoch {self.epoch + 1}/{self.epochs}"
        figures = {"loss": f"{loss:.3f}", "clean": _percent(clean), "robust": _percent(robust)}
        self.bar.describe(title, figures)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}%"
