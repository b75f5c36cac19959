"""Whether a causal language model says secrets that were planted in its training text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustprune.measure.continuations import judge_continuations
from robustprune.measure.statistics import Proportion, proportion


@dataclass(frozen=True)
class Leakage:
    """How many of N secrets a model gives away.

    Attributes:
        exact: the share that it says by itself, token by token.
        exposure: the median exposure in bits; 0 to 2 is what a model shows that never saw them.
        most: the largest exposure that can be shown with this number of alternatives.
    """

    exact: Proportion
    exposure: float
    most: float

    def __repr__(self) -> str:
        return (
            f"Leakage(n={self.exact.n}, exact={self.exact.value:.4g}, "
            f"exposure={self.exposure:.4g} of {self.most:.4g} bits)"
        )


@dataclass(frozen=True)
class Secrets:
    """What a model shows of each of N secrets.

    Attributes:
        said: (N,) bool, whether it says the secret by itself.
        exposure: (N,) float64, in bits.
    """

    said: Tensor
    exposure: Tensor


def leakage(
    model: nn.Module,
    prefixes: Sequence[Sequence[int]],
    secrets: Sequence[Sequence[int]],
    *,
    alternatives: int = 255,
    seed: int = 0,
    batch_size: int = 16,
) -> Leakage:
    """Ask a model for planted secrets, and count what it gives away; see `judge_secrets`.

    Raises:
        ValueError: as in `judge_secrets`.
    """
    found = judge_secrets(
        model, prefixes, secrets, alternatives=alternatives, seed=seed, batch_size=batch_size
    )
    return leakage_of(found, alternatives)


def leakage_of(found: Secrets, alternatives: int) -> Leakage:
    """Summarise what `judge_secrets` found with this number of alternatives."""
    return Leakage(
        proportion(int(found.said.sum()), len(found.said)),
        float(found.exposure.median()),
        math.log2(alternatives + 1),
    )


def judge_secrets(
    model: nn.Module,
    prefixes: Sequence[Sequence[int]],
    secrets: Sequence[Sequence[int]],
    *,
    alternatives: int = 255,
    seed: int = 0,
    batch_size: int = 16,
) -> Secrets:
    """Ask a model for each planted secret, after the words before it.

        exact match: greedy decoding gives the secret  (Carlini et al. 2023, arXiv 2202.07646)
        exposure = log₂ (R + 1) − log₂ rank            (Carlini et al. 2019, arXiv 1802.08232)

    The rank is that of the secret's likelihood among R others of the same length, whose tokens are
    drawn from those of all secrets.

    Args:
        prefixes, secrets: N sequences of token ids, each with at least one token; a prefix begins
            with BOS.
        alternatives: R.

    Raises:
        ValueError: `alternatives` is below 1, a sequence is empty, numbers differ, or all secrets
            together have one token alone.
    """
    if alternatives < 1:
        raise ValueError(f"alternatives={alternatives} must be at least 1")
    if len({token for secret in secrets for token in secret}) < 2:
        raise ValueError("the secrets have one token alone, so that there is no other secret")
    judged = judge_continuations(model, prefixes, secrets, batch_size=batch_size)
    generator = torch.Generator().manual_seed(seed)
    pool = torch.tensor([token for secret in secrets for token in secret])
    exposures = []
    for place, (prefix, secret) in enumerate(zip(prefixes, secrets, strict=True)):
        drawn = torch.randint(len(pool), (alternatives, len(secret)), generator=generator)
        others = judge_continuations(
            model, [prefix] * alternatives, pool[drawn].tolist(), batch_size=batch_size
        )
        # the secret itself may be drawn, and its likelihood differs in its last bits then
        another = (pool[drawn] != torch.tensor(secret)).any(1)
        rank = 1 + int((another & (others.log_likelihood > judged.log_likelihood[place])).sum())
        exposures.append(math.log2((alternatives + 1) / rank))
    return Secrets(judged.greedy, torch.tensor(exposures, dtype=torch.float64))
