"""The options of every training, and the validation by which an epoch is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import nn
from torch.nn import functional as F

from attacks import Attack
from attacks.modes import evaluating
from attacks.network import logits_of
from robustprune.minmax.batches import Batches, check_labels, length_of, pair_of
from robustprune.minmax.history import EpochRecord
from robustprune.minmax.result import tally
from robustprune.minmax.resume import Checkpoint
from robustprune.run.runtime import own_part, own_random_numbers, summed
from robustprune.sparsity import computed_once


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Choose the epoch by accuracy on examples held out of the training data.

    The epoch with the highest accuracy under `attack` is chosen, or with the highest clean accuracy
    where it is None; of equal ones the later. Without a Validation the last epoch is the result.
    Never use test data here. Robust accuracy on unseen data falls again when training goes on (Rice
    et al. 2020, arXiv 2002.11569).

    Attributes:
        loader: the batches (x, y) of the held-out examples.
        attack: the attack under which accuracy is measured, or None.
        every: validate after every so many epochs, at least 1.
        patience: stop after so many epochs without a new best, at least 1; None never stops early.

    Raises:
        ValueError: `every` or `patience` is below 1, or the loader has no batch.
    """

    loader: Batches
    attack: Attack | None = None
    every: int = 1
    patience: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("every", self.every), ("patience", self.patience)):
            if value is not None and not value >= 1:
                raise ValueError(f"{name}={value} of a Validation must be at least 1, in epochs")
        if length_of(self.loader) == 0:
            raise ValueError("the validation loader has no batches; hold some examples out for it")

    def __call__(self, model: nn.Module, device: torch.device) -> tuple[float, float | None]:
        """Return clean and robust accuracy, None without an attack."""
        return self.measured(model, device)[:2]

    def measured(self, model: nn.Module, device: torch.device) -> tuple[float, float | None, float]:
        """Return clean and robust accuracy, and the mean cross-entropy of the latter."""
        clean = robust = n = loss = 0.0
        with evaluating(model), computed_once(model), own_random_numbers():
            for batch in self.loader:
                x, y = pair_of(batch)
                x, y, share = own_part(x.to(device), y.to(device))
                if share == 0.0:
                    continue
                with torch.no_grad():
                    logits = logits_of(model, x)
                    check_labels(y, logits, wait=True)
                    right, counted = tally(logits, y)
                    clean, n = clean + float(right), n + float(counted)
                if self.attack is not None:
                    x_adv = self.attack(model, x, y)
                    with torch.no_grad():
                        logits = logits_of(model, x_adv)
                        robust += float(tally(logits, y)[0])
                loss += float(
                    F.cross_entropy(logits.float().flatten(0, -2), y.flatten(), reduction="sum")
                )
        counts = torch.tensor([clean, robust, loss, n], dtype=torch.float64)
        clean, robust, loss, n = summed(counts).tolist()
        if n == 0:
            raise ValueError(
                "the validation loader has no batches, or no label that counts: is it an iterator "
                "that is used up? Give a DataLoader or a list"
            )
        return clean / n, None if self.attack is None else robust / n, loss / n


class LoopOptions(TypedDict, total=False):
    """The options that every search passes on to `train`, whose docstring explains them. They say
    how a training runs, not what it learns."""

    validation: Validation | None
    average: float | None
    amp: bool
    channels_last: bool
    compile: bool
    device: torch.device | str
    checkpoint: Checkpoint | None
    title: str
    quiet: bool
    on_epoch: Callable[[EpochRecord], None]
