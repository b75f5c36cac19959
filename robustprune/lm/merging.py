"""Merging instead of dropping: an evicted value lives on in the values that stay."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.rounding import widened


@dataclass
class Merging:
    """Cache merging, CaM (Zhang et al. 2024, ICML, Sec. 3.3).

    The value v of an evicted token is added, divided by `spread`, to each of the next `spread`
    tokens that stay. It is with the probability min(1, a / ā), where a is the attention that the
    token got so far and ā the mean of that of the tokens that stay.

    Args:
        spread: number of tokens among which a value is divided, at least 1.
        seed: seed of the draws.
    """

    spread: int = 32
    seed: int = 0
    _generator: torch.Generator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.spread < 1:
            raise ValueError(f"spread={self.spread} must be at least 1, in tokens")
        self.reset()

    def reset(self) -> None:
        """Begin the draws anew."""
        self._generator = torch.Generator().manual_seed(self.seed)

    def merged(self, values: Tensor, scores: Tensor, kept: Tensor, real: Tensor) -> Tensor:
        """Return the values of the tokens that stay, with those of the others merged in.

        Args:
            values: (N, H, n, d).
            scores: (N, H, n), the attention of each token so far.
            kept: (N, H, k), increasing indices of the tokens that stay.
            real: (N, H, n), boolean; padding is never merged.

        Returns:
            (N, H, k, d).
        """
        chance = scores / scores.gather(-1, kept).mean(-1, keepdim=True).clamp(min=1e-30)
        draws = torch.rand(scores.shape, generator=self._generator).to(scores.device)
        stays = torch.zeros_like(real).scatter(-1, kept, True)
        moves = (draws < chance) & real & ~stays
        # the kept tokens behind an evicted one are those from this index on
        first = stays.cumsum(-1)
        # what begins to be added at index i ends at i + spread: a difference, then a running sum
        part = torch.where(moves.unsqueeze(-1), widened(values) / self.spread, 0.0)
        N, H, _, d = values.shape
        steps = part.new_zeros(N, H, kept.shape[-1] + self.spread + 1, d)
        index = first.unsqueeze(-1).expand(part.shape)
        steps = steps.scatter_add(2, index, part)
        steps = steps.scatter_add(2, index + self.spread, -part)
        added = steps.cumsum(2)[:, :, : kept.shape[-1]]
        return values.take_along_dim(kept.unsqueeze(-1), dim=2) + added.to(values.dtype)
