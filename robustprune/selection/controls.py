"""The controls that every other method must beat: the hardest candidates, and random ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.modes import evaluating
from attacks.network import logits_of
from robustprune.selection.pool import Examples, Pool, batches


@dataclass(frozen=True)
class HighestLoss:
    """Score each candidate by its cross-entropy, in eval mode."""

    batch_size: int = 256
    signed: ClassVar[bool] = False

    @torch.no_grad()
    def __call__(self, model: nn.Module, pool: Pool, validation: Examples | None) -> Tensor:
        with evaluating(model):
            parts = [
                F.cross_entropy(logits_of(model, x), y, reduction="none")
                for x, y in batches(self.batch_size, pool.x_adv, pool.y)
            ]
        return torch.cat(parts)


@dataclass(frozen=True)
class Random:
    """Score each candidate by a random number, which is the same on every device."""

    seed: int
    signed: ClassVar[bool] = False

    def __call__(self, model: nn.Module, pool: Pool, validation: Examples | None) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(len(pool), generator=generator).to(pool.y.device)
