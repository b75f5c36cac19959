"""What a search adds to the training loop: a callback, a sparsity set, or learned parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from robustprune.sparsity import MaskSet


class Callback(Protocol):
    """What the loop calls. A search derives from it and overrides what it needs."""

    def bind(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps_per_epoch: int | None,
        epochs: int,
    ) -> None:
        """Called once, before the first step and before a checkpoint is taken up.

        Args:
            optimizer: holds what moves; see `minmax.dense.forget`.
            steps_per_epoch: None where the loader cannot say.
        """
        return None

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Added to the objective's loss at each step; None for nothing."""
        return None

    def wants_dense_gradients(self, step: int) -> bool:
        """Whether this step (counted from 1) is one for `take_dense_gradients`."""
        return False

    def take_dense_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """Called after the optimizer's step, before `after_step`, on the steps that want it.

        Args:
            gradients: by parameter name, of each weight that `apply_masks` masked: that of the
                step's loss with respect to the masked weight, pruned entries included.
        """
        return None

    def after_step(self, model: nn.Module, step: int) -> None:
        """Called after each optimizer step (counted from 1), outside of autograd."""
        return None

    def after_epoch(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """Called after each epoch (counted from 1); returns figures for the epoch's record."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must hold besides the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        return None


class Constraint(Callback, Protocol):
    """Keeps the trained network in a sparsity set, or drives it towards one."""

    def masks(self, model: nn.Module) -> MaskSet:
        """The sub-network that the constraint stands for now; changes nothing."""
        ...


class Learned(Constraint, Protocol):
    """A constraint whose own parameters, scores or gates, move in place of the weights."""

    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer gets."""
        ...
