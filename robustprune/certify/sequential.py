"""Test whether misses are rarer than claimed, with as many samples as it takes.

A miss has an unknown probability q, and the claim is q < u. For samples X₁, X₂, ... (1 for a miss),
the mixture of likelihood ratios against the limit of the claim,

    E_t = ∫ Π_s (v/u)^{X_s} ((1 − v)/(1 − u))^{1 − X_s} dπ(v),

is a nonnegative supermartingale with mean at most 1 for every q ≥ u if π is a distribution on
v < u, and for every q ≤ u if π is one on v > u. So the probability that E_t reaches 1/δ at any t is
at most δ (Ville 1939; Robbins 1970, Ann. Math. Statist. 41, Sec. 2), and one may stop after any
sample. With π the Beta(½, ½) distribution cut at u, both integrals are incomplete beta functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincc, betaln

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]

#: the number of samples before the first test; each later test has a quarter more
_FIRST_LOOK = 64
#: both parameters of the beta distribution of the mixture
_HALF = 0.5
#: smaller probabilities are replaced by this one
_TINY = 1e-300


@dataclass(frozen=True)
class Decision:
    """The result of fresh samples for K claims: confirmed, refuted, or neither within the limit.

    Attributes:
        confirmed, refuted: (K,) bool.
        drawn, misses: (K,) int64, the numbers of samples and of misses among them.
    """

    confirmed: NDArray[np.bool_]
    refuted: NDArray[np.bool_]
    drawn: Counts
    misses: Counts


def decide(
    misses_of: Callable[[Counts, int], Counts],
    claimed: Numbers,
    *,
    level: float,
    alarm: float,
    limit: int,
) -> Decision:
    """Test K claims of the form "a miss has a probability below u".

    Args:
        misses_of: a function (positions of some claims, a number of samples) -> the misses among
            this number of new samples of each.
        claimed: (K,), the u of each claim.
        level: the largest probability that a false claim is confirmed, for each claim.
        alarm: the largest probability that a true claim is refuted, for each claim.
        limit: the largest number of samples for each claim.
    """
    drawn, misses = (np.zeros(len(claimed), dtype=np.int64) for _ in range(2))
    confirmed, refuted = (np.zeros(len(claimed), dtype=np.bool_) for _ in range(2))
    open_, made, look = np.arange(len(claimed)), 0, _FIRST_LOOK
    while len(open_) and made < limit:
        samples = min(look, limit) - made
        misses[open_] += misses_of(open_, samples)
        made += samples
        drawn[open_] = made
        fewer, more = evidence(misses[open_], made, claimed[open_])
        confirmed[open_] = fewer >= -np.log(level)
        refuted[open_] = more >= -np.log(alarm)
        open_ = open_[~(confirmed[open_] | refuted[open_])]
        look = made + made // 4
    return Decision(confirmed, refuted, drawn, misses)


def evidence(misses: Counts, samples: int, claimed: Numbers) -> tuple[Numbers, Numbers]:
    """Return log E_t for misses that are rarer than `claimed`, and for more frequent ones."""
    u = np.clip(claimed, _TINY, 1 - 1e-16)
    a, b = _HALF + misses, _HALF + samples - misses
    ratio = betaln(a, b) - betaln(_HALF, _HALF) - misses * np.log(u)
    ratio -= (samples - misses) * np.log1p(-u)
    with np.errstate(divide="ignore", under="ignore"):  # log 0 = −∞ means no evidence
        fewer = ratio + np.log(betainc(a, b, u)) - np.log(betainc(_HALF, _HALF, u))
        more = ratio + np.log(betaincc(a, b, u)) - np.log(betaincc(_HALF, _HALF, u))
    return fewer, more
