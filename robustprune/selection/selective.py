"""Adversarial training on chosen examples, which are chosen again during the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import Attack
from attacks.network import logits_of
from attacks.scale import scaled
from robustprune.minmax import StepResult
from robustprune.minmax.objectives import ramp
from robustprune.minmax.result import tally
from robustprune.selection.pool import Pool, batches
from robustprune.selection.select import Selection
from robustprune.sparsity import computed_once

#: (model, pool, epoch) -> Selection; the epoch may seed random draws, so that they differ
Choose = Callable[[nn.Module, Pool, int], Selection]


class Indexed(Protocol):
    """A loader that stores the indices of the training examples in its last batch."""

    indices: Tensor


class Selective:
    """Adversarial training in which each example has its own weight:

        1/B Σ_i w_i ℓ(f(x_i + δ_i), y_i)   over the chosen,
        1/B Σ_i r ℓ(f(x_i), y_i)           over the others,

    where w are the weights of the last selection. Before the first one all are chosen with weight
    1. The candidates are one adversarial example for each training example, made with the present
    network. The examples of a training step are attacked again at that step.

    It is an objective for `train`, which calls `before_epoch` and stores its state in a checkpoint.

    Args:
        loader: the loader of the batches, which stores the indices of their examples.
        attack: the inner attack.
        choose: a function that scores the candidates and chooses some.
        x, y: (N, ...) and (N,), all training examples in the loader's order, on the model's device.
        pool_attack: the attack that makes the candidates; None for `attack`.
        start: the number of epochs before the first selection.
        every: the number of epochs between two selections; None for only one selection.
        clean_rest: whether the others are trained on without an attack (r = 1) or not at all (r =
            0).
        warmup: the number of epochs in which ε of `attack` grows from zero.
        batch_size: the number of candidates that are attacked at a time.
        on_selection: a function that is called after each selection; None for none.

    Attributes:
        epochs: the epochs of this training before which a selection was made, counted from 0.
        selections: the selections of these epochs.
        pool: the candidates of the last selection; None before the first.
    """

    moves_inputs = True

    def __init__(
        self,
        loader: Indexed,
        attack: Attack,
        choose: Choose,
        *,
        x: Tensor,
        y: Tensor,
        pool_attack: Attack | None = None,
        start: int = 0,
        every: int | None = None,
        clean_rest: bool = True,
        warmup: float = 0.0,
        batch_size: int = 256,
        on_selection: Callable[[Selective], None] | None = None,
    ) -> None:
        if start < 0 or (every is not None and every < 1):
            raise ValueError(
                f"start={start} must be at least 0 and every={every} at least 1, or None for one "
                "selection only"
            )
        self.loader, self.attack, self.choose = loader, attack, choose
        self.pool_attack = pool_attack or attack
        self.x, self.y = x, y
        self.start, self.every = start, every
        self.clean_rest, self.warmup, self.batch_size = clean_rest, warmup, batch_size
        self.on_selection = on_selection
        self._reset()

    def _reset(self) -> None:
        self.epochs: list[int] = []
        self.selections: list[Selection] = []
        self.pool: Pool | None = None

    def before_epoch(self, model: nn.Module, epoch: int) -> None:
        """Make a selection if it is due. Epoch 0 begins a new training."""
        if epoch == 0:
            self._reset()
        since = epoch - self.start
        if since == 0 or (since > 0 and self.every is not None and since % self.every == 0):
            self.pool = Pool(self._candidates(model), self.y, self.x)
            self.selections.append(self.choose(model, self.pool, epoch))
            self.epochs.append(epoch)
            if self.on_selection is not None:
                self.on_selection(self)

    def _candidates(self, model: nn.Module) -> Tensor:
        parts = batches(self.batch_size, self.x, self.y)
        with computed_once(model):  # not around `choose`: TracIn needs gradients of weights
            return torch.cat([self.pool_attack(model, x, y) for x, y in parts]).detach()

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        weights = torch.ones(len(y), device=x.device)
        if self.selections:
            weights = self.selections[-1].weights.to(weights)[self.loader.indices.to(x.device)]
        chosen = weights > 0
        inputs = x
        if bool(chosen.any()):
            attack = scaled(self.attack, ramp(epoch, self.warmup))
            inputs = x.index_put((chosen,), attack(model, x[chosen], y[chosen]))
        logits = logits_of(model, inputs)
        losses = F.cross_entropy(logits, y, reduction="none")
        share = torch.where(chosen, weights, float(self.clean_rest))
        return StepResult((share * losses).mean(), *tally(logits, y), adversarial=True)

    def state_dict(self) -> dict[str, Tensor]:
        """Return every selection of this training (R of them), and the candidates of the last
        pool."""
        if self.pool is None:
            return {}
        return {
            "epochs": torch.tensor(self.epochs),
            "scores": torch.stack([one.scores for one in self.selections]),
            "weights": torch.stack([one.weights for one in self.selections]),
            "x_adv": self.pool.x_adv,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a result of `state_dict`, for the same training examples.

        Raises:
            ValueError: the number of examples differs, or there are other keys.
        """
        self._reset()
        if not state:
            return
        if set(state) != {"epochs", "scores", "weights", "x_adv"}:
            raise ValueError(
                f"selection state has keys {sorted(state)}, expected epochs, scores, weights, "
                "x_adv; pass what state_dict() returned"
            )
        if state["scores"].shape[1] != len(self.y):
            raise ValueError(
                f"selection state is of {state['scores'].shape[1]} examples and there are "
                f"{len(self.y)}; resume with the same data"
            )
        self.epochs = [int(epoch) for epoch in state["epochs"]]
        for scores, weights in zip(state["scores"], state["weights"], strict=True):
            ranked = scores.argsort(descending=True, stable=True)
            self.selections.append(Selection(scores, ranked[weights[ranked] > 0], weights))
        self.pool = Pool(state["x_adv"].to(self.x), self.y, self.x)
