"""What a search adds to the training loop: a callback, a sparsity set, or learned parameters."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from robustprune.minmax.history import EpochRecord
from robustprune.sparsity import MaskSet


class Callback(Protocol):
    """The methods that the loop calls. A search overrides those that it needs."""

    def bind(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps_per_epoch: int | None,
        epochs: int,
    ) -> None:
        """The loop calls it once, before the first step and before a checkpoint is loaded.

        Args:
            optimizer: the optimizer of the parameters that are trained; see `minmax.dense.forget`.
            steps_per_epoch: the number of batches of an epoch, or None where the loader has no
                length.
        """
        return None

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Return a scalar that is added to the objective's loss at each step, or None for
        nothing."""
        return None

    def wants_dense_gradients(self, step: int) -> bool:
        """Return whether `take_dense_gradients` must be called at this step (counted from 1)."""
        return False

    def take_dense_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """The loop calls it after the optimizer's step and before `after_step`, where it is wanted.

        Args:
            gradients: the gradient of the step's loss with respect to each masked weight (see
                `apply_masks`), by parameter name, with the pruned entries.
        """
        return None

    def after_step(self, model: nn.Module, step: int) -> None:
        """The loop calls it after each optimizer step (counted from 1), outside of autograd."""
        return None

    def after_epoch(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """The loop calls it after each epoch (counted from 1); the result goes into the record."""
        return {}

    def as_returned(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which the model is the network that the search would return if the
        training ended now. The loop measures accuracies on held-out examples in it."""
        return nullcontext()

    def may_be_chosen(self, epoch: int) -> bool:
        """Return whether a validation may choose the network of this epoch (counted from 1). If no
        epoch may be chosen, the last one is the result."""
        return True

    def after_choice(self, epoch: int) -> None:
        """The loop calls it when a validation finds the network of this epoch (counted from 1) the
        best so far. What else belongs to that network must be kept here, because the loop keeps
        the model alone."""
        return None

    def after_record(self, record: EpochRecord) -> None:
        """The loop calls it at the end of each epoch with the record, in which the accuracies on
        held-out examples are, if they were measured."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold besides the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a result of `state_dict`."""
        return None


class Constraint(Callback, Protocol):
    """A constraint keeps the trained network in a sparsity set, or drives it towards one."""

    def masks(self, model: nn.Module) -> MaskSet:
        """Return the masks that the constraint has at this moment; nothing changes."""
        ...


class Learned(Constraint, Protocol):
    """A constraint that trains its own parameters (scores or gates) instead of the weights."""

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters for the optimizer."""
        ...
