"""What a search adds to the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from robustprune.sparsity import MaskSet


class Constraint(Protocol):
    """Keeps the trained network in (or drives it towards) a sparsity set.

    A search derives from it and overrides what it needs.
    """

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Added to the objective's loss at each step; None for nothing."""
        return None

    def after_step(self, model: nn.Module, step: int) -> None:
        """Called after each optimizer step, outside of autograd."""
        return None

    def after_epoch(self, model: nn.Module, epoch: int) -> dict[str, float]:
        """Called after each epoch (counted from 1); returns figures for the epoch's record."""
        return {}

    def masks(self, model: nn.Module) -> MaskSet:
        """The sub-network that the constraint stands for now."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must hold besides the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        return None
