"""Whether misses are rarer than claimed: a test that draws as many samples as it takes.

A miss has an unknown probability q, the claim is q < u. For samples X₁, X₂, ... (1 for a miss),
the mixture of likelihood ratios against the edge of the claim,

    E_t = ∫ Π_s (v/u)^{X_s} ((1 − v)/(1 − u))^{1 − X_s} dπ(v),

is a nonnegative supermartingale of mean at most 1 under every q ≥ u where π lives on v < u, and
under every q ≤ u where π lives on v > u. So E_t reaches 1/δ, at any t at all, with probability at
most δ (Ville 1939; Robbins 1970, Ann. Math. Statist. 41, Sec. 2): one may look after each sample
and stop when one likes. With π the Beta(½, ½) distribution cut at u, both integrals are incomplete
beta functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincc, betaln

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]

#: samples of the first look; each look grows them by a quarter
_FIRST_LOOK = 64
#: both parameters of the mixture's beta distribution
_HALF = 0.5
#: below this a probability counts as this
_TINY = 1e-300


@dataclass(frozen=True)
class Decision:
    """What fresh samples say of K claims: confirmed, refuted, or neither within the limit.

    Attributes:
        confirmed, refuted: (K,) bool.
        drawn, misses: (K,) int64, samples made and misses among them.
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
    """Test K claims "a miss has a probability below u".

    Args:
        misses_of: (positions of some claims, a number of samples) -> misses among so many new
            samples of each.
        claimed: (K,) u.
        level: probability, at most, that a false claim is confirmed; of each.
        alarm: probability, at most, that a true claim is refuted; of each.
        limit: most samples a claim.
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
    """log E_t that misses are rarer than `claimed`, and that they are more frequent."""
    u = np.clip(claimed, _TINY, 1 - 1e-16)
    a, b = _HALF + misses, _HALF + samples - misses
    ratio = betaln(a, b) - betaln(_HALF, _HALF) - misses * np.log(u)
    ratio -= (samples - misses) * np.log1p(-u)
    with np.errstate(divide="ignore", under="ignore"):  # log 0 = −∞: no evidence
        fewer = ratio + np.log(betainc(a, b, u)) - np.log(betainc(_HALF, _HALF, u))
        more = ratio + np.log(betaincc(a, b, u)) - np.log(betaincc(_HALF, _HALF, u))
    return fewer, more
