"""What a search adds to the training loop."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from robustprune.sparsity import MaskSet


class Constraint(Protocol):
    """Keeps the trained network in (or drives it towards) a sparsity set."""

    def after_step(self, model: nn.Module, step: int) -> None:
        """Called after each optimizer step, outside of autograd."""

    def masks(self, model: nn.Module) -> MaskSet:
        """The sub-network that the constraint stands for now."""
