"""Which tokens a key-value cache keeps: rules for tokens that attention will need again.

A rule gives every stored token a priority, and the tokens of the highest priorities stay, as many
as its `size`. +∞ protects a token. Every head of keys and values decides on its own, except with
TOVA. Where several query heads share a head (grouped queries), their attention is summed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from robustprune.lm.kv_bits import rounded

#: a number of tokens, or (a float below 1) a share of the length of the prompt
Budget = int | float


@dataclass(frozen=True)
class Held:
    """What a layer of a cache holds after an attention, for N sequences and H heads of n tokens.

    Attributes:
        keys, values: (N, H, n, d).
        scores: (N, H, n) float32, the attention that each token got, summed over all queries.
        queries: (N, H, n) float32, how many queries could attend to each token.
        positions: (N, H, n) int64, the place of each token in its sequence; −1 for padding.
        attention: (N, H, G, q, n) attention of the last call: of G query heads that share a head,
            and q queries. Rows of queries that are padding are zero.
        length: number of tokens of the prompt, padding included.
        prompt: whether the last call was the first one.
    """

    keys: Tensor
    values: Tensor
    scores: Tensor
    queries: Tensor
    positions: Tensor
    attention: Tensor
    length: int
    prompt: bool


class Eviction(Protocol):
    """A rule."""

    def size(self, length: int) -> int | None:
        """Return how many tokens stay, for a prompt of `length` tokens; None for all."""

    def priority(self, held: Held) -> Tensor | None:
        """Return (N, H, n) priorities, or None if no token goes this time."""


def tokens(budget: Budget, length: int) -> int:
    """Return a budget as a number of tokens: a float is a share of `length`, rounded down."""
    # 0.29 · 100 is 28.999…, and means 29
    return budget if isinstance(budget, int) else int(budget * length + 1e-9)


@dataclass(frozen=True)
class HeavyHitters:
    """H2O (Zhang et al. 2023, arXiv 2306.14048, Alg. 1): tokens that got most attention so far.

    The last `recent` tokens stay, and of those before them the `heavy` ones with the largest sum
    of attention. The sum favours old tokens, which more queries could attend to; score "mean"
    divides it by their number.
    """

    heavy: Budget
    recent: Budget
    score: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        check_budgets(heavy=self.heavy, recent=self.recent)
        if self.score not in ("sum", "mean"):
            raise ValueError(f"score={self.score!r} is unknown; choose sum or mean")

    def size(self, length: int) -> int:
        return _size(length, self.heavy, self.recent)

    def priority(self, held: Held) -> Tensor:
        scores = held.scores
        if self.score == "mean":
            scores = scores / held.queries.clamp(min=1)
        return _protect_last(scores, tokens(self.recent, held.length))


@dataclass(frozen=True)
class Recent:
    """The last tokens, and the first `sinks` ones (Xiao et al. 2024, arXiv 2309.17453).

    With `sinks=0` it is a sliding window.
    """

    recent: Budget
    sinks: int = 4

    def __post_init__(self) -> None:
        check_budgets(recent=self.recent)
        if self.sinks < 0:
            raise ValueError(f"sinks={self.sinks} must be at least 0, in tokens")

    def size(self, length: int) -> int:
        return _size(length, self.sinks, self.recent)

    def priority(self, held: Held) -> Tensor:
        positions = held.positions.float()
        return positions.masked_fill(held.positions < self.sinks, math.inf)


@dataclass(frozen=True)
class Tova:
    """TOVA (Oren et al. 2024, arXiv 2401.06104): what the last query attends to least goes.

    The attention is the mean over all heads of the layer, so that all heads keep the same tokens.
    """

    kept: Budget

    def __post_init__(self) -> None:
        check_budgets(kept=self.kept)

    def size(self, length: int) -> int:
        return _size(length, self.kept)

    def priority(self, held: Held) -> Tensor:
        last = held.attention[..., -1, :].mean((1, 2))
        return last.unsqueeze(1).expand(held.positions.shape)


@dataclass(frozen=True)
class SnapKV:
    """SnapKV (Li et al. 2024, arXiv 2404.14469, Sec. 4): the prompt is cut once, then all stays.

    The last `window` tokens of the prompt stay, and those before them that got most attention from
    these. The attention is averaged over `kernel` neighbouring tokens, so that passages stay; as in
    the authors' code, a neighbour that is in the window or does not exist counts as 0.
    """

    kept: Budget
    window: int = 32
    kernel: int = 5

    def __post_init__(self) -> None:
        check_budgets(kept=self.kept)
        if self.window < 1:
            raise ValueError(f"window={self.window} must be at least 1, in tokens")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel} must be an odd number of tokens")

    def size(self, length: int) -> int:
        size = _size(length, self.kept)
        if size < length and size <= self.window:
            raise ValueError(
                f"SnapKV keeps {size} of {length} tokens, of which its window takes "
                f"{self.window}; raise `kept` or lower `window`"
            )
        return size

    def priority(self, held: Held) -> Tensor | None:
        if not held.prompt:
            return None
        total = held.attention[..., -self.window :, :].sum((2, 3))
        total[..., -self.window :] = 0.0  # the window is no neighbour, as padding is none
        pooled = F.avg_pool1d(total, self.kernel, stride=1, padding=self.kernel // 2)
        return _protect_last(pooled, self.window)


@dataclass(frozen=True)
class QHitter:
    """Q-Hitter (Zhang et al. 2024, MLSys): heavy hitters that also survive quantisation.

    The last `recent` tokens stay, then the `heavy` ones with the most attention, then the
    `friendly` ones of the highest

        share · a + (1 − share) · (2 − e_K − e_V) / 2,

    where a is the sum of attention and e the mean squared error of a token's key or value at
    `bits`, each scaled to [0, 1] over the tokens of a head. share = 1 is H2O with heavy + friendly.
    The cache should store its tokens at the same `bits`.
    """

    heavy: Budget = 0.07
    friendly: Budget = 0.08
    recent: Budget = 0.05
    share: float = 0.5
    bits: int = 4

    def __post_init__(self) -> None:
        check_budgets(heavy=self.heavy, friendly=self.friendly, recent=self.recent)
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share={self.share} must lie in [0, 1]")

    def size(self, length: int) -> int:
        return _size(length, self.heavy, self.friendly, self.recent)

    def priority(self, held: Held) -> Tensor:
        old = held.positions.shape[-1] - tokens(self.recent, held.length)
        errors = (
            (part - rounded(part, self.bits)).float().square().mean(-1)
            for part in (held.keys, held.values)
        )
        real = held.positions >= 0
        friendly = (2 - sum(_scaled(error, real) for error in errors)) / 2
        both = self.share * _scaled(held.scores, real) + (1 - self.share) * friendly
        heavy = min(tokens(self.heavy, held.length), max(old, 0))
        if heavy:
            first = held.scores.masked_fill(~real, -math.inf)[..., :old].topk(heavy).indices
            both = both.scatter(-1, first, math.inf)
        return _protect_last(both, tokens(self.recent, held.length))


@dataclass(frozen=True)
class RandomTokens:
    """A control: the last `recent` tokens, and `others` drawn at random (by `seed`)."""

    others: Budget
    recent: Budget
    seed: int = 0

    def __post_init__(self) -> None:
        check_budgets(others=self.others, recent=self.recent)

    def size(self, length: int) -> int:
        return _size(length, self.others, self.recent)

    def priority(self, held: Held) -> Tensor:
        # a token keeps its draw for life: a number that depends on its position alone
        most = int(held.positions.max()) + 1
        generator = torch.Generator().manual_seed(self.seed)
        heads = held.positions.shape[1]
        draws = torch.rand(max(most, 1), heads, generator=generator).T.to(held.keys.device)
        draws = draws.expand(len(held.positions), *draws.shape)
        priority = draws.gather(-1, held.positions.clamp(min=0))
        return _protect_last(priority, tokens(self.recent, held.length))


def chosen(rule: Eviction, held: Held) -> Tensor | None:
    """Return which tokens stay, (N, H, k) increasing indices, or None if all do.

    Padding goes first, whatever the rule says, so that the tokens that stay are the last ones of
    what a mask over the sequence shows.
    """
    size = rule.size(held.length)
    if size is None or size >= held.positions.shape[-1]:
        return None
    priority = rule.priority(held)
    if priority is None:
        return None
    if bool(priority.isnan().any()):
        raise ValueError("the attention of the model is NaN; look at its weights and its precision")
    # pads are told apart by their place, so that the earliest go first
    pads = held.positions < 0
    place = torch.arange(pads.shape[-1], device=pads.device) - pads.shape[-1]
    priority = priority.double().clamp(min=-1e30)
    priority = torch.where(pads, 1e31 * place, priority)
    return priority.topk(size, dim=-1, sorted=False).indices.sort(-1).values


def check_budgets(**budgets: Budget) -> None:
    """Raise ValueError unless each budget is a number of tokens or a share."""
    for name, budget in budgets.items():
        whole = isinstance(budget, int) and not isinstance(budget, bool)
        if not (whole and budget >= 0) and not (isinstance(budget, float) and 0 <= budget < 1):
            raise ValueError(
                f"{name}={budget!r} must be a whole number of tokens, or a share of the prompt in "
                "[0, 1)"
            )


def _size(length: int, *budgets: Budget) -> int:
    size = sum(tokens(budget, length) for budget in budgets)
    if size < 1:
        raise ValueError(f"no token of a prompt of {length} would stay; raise the budget")
    return size


def _protect_last(priority: Tensor, number: int) -> Tensor:
    """Return priorities with +∞ at the last tokens."""
    place = torch.arange(priority.shape[-1] - 1, -1, -1, device=priority.device)
    return priority.float().masked_fill(place < number, math.inf)


def _scaled(values: Tensor, real: Tensor) -> Tensor:
    """Return values scaled to [0, 1] over the real tokens of each head; 0 where all are equal."""
    low = values.masked_fill(~real, math.inf).amin(-1, keepdim=True)
    high = values.masked_fill(~real, -math.inf).amax(-1, keepdim=True)
    span = (high - low).clamp(min=torch.finfo(values.dtype).tiny)
    return ((values - low) / span).masked_fill(~real, 0.0)
