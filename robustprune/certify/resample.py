"""Check smoothed claims with samples of the verifier.

What a file says about its samples is no evidence, because its author may have drawn none. A radius
says that the class has at least a certain share of all samples. Samples that nobody could foresee
confirm or refute that share (`sequential`), however many this takes up to a limit. If the share is
so near to the claim that they do neither, the stated seed is used again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from robustprune.certify.claims import Claims
from robustprune.certify.findings import CheckResult, named
from robustprune.certify.sequential import Counts, Decision, Numbers, decide
from robustprune.measure.statistics import clopper_pearson

#: the largest probability that fresh samples confirm any false smoothed claim of a file
FALSE_PASS = 1e-3
#: the largest probability that a check which draws noise refutes any true claim of a file
FALSE_ALARM = 1e-3
#: a claim gets at most OFTEN times as many fresh samples as it was made with, or LEAST if more
OFTEN, LEAST = 100, 100_000

#: (positions among the claimed rows, samples) -> misses among this number of new samples of each
Misses = Callable[[Counts, int], Counts]
#: rows -> the class and the hits of each with the stated seed
Replay = Callable[[Claims, list[int]], tuple[Counts, Counts]]


def follows_from_hits(
    claims: Claims, radius_of: Callable[[int, NDArray[np.float64]], float]
) -> CheckResult:
    """Check that radius, confidence and abstention are those that the stated hits give.

    Args:
        radius_of: a function (row, p_A as an array of one number) -> the radius.
    """
    n, alpha, wrong = int(claims.setting("n")), float(claims.setting("alpha")), []
    for row, c in enumerate(claims.certificates):
        assert c.hits is not None, "the schema says so"
        p_lower = clopper_pearson([min(c.hits, n)], n, alpha)[0]
        radius = radius_of(row, p_lower) if c.prediction == c.label else 0.0
        # in files of schema 1 a radius that covers all words is one more than their number
        beyond = claims.method == "synonyms" and c.replaceable is None and c.radius > radius > 0
        if (
            c.hits > n
            or (c.prediction is None) != bool(p_lower[0] <= 0.5)
            or abs(c.confidence - (1 - alpha)) > 1e-12
            # last digits differ between versions
            or (abs(c.radius - radius) > 1e-6 * radius and not beyond)
        ):
            wrong.append(row)
    return claims.finding(
        "radius follows from the hits",
        torch.tensor(wrong),
        f"{len(claims.certificates)} radii computed again",
        "the hits do not give this radius, confidence or abstention",
    )


def supported(claims: Claims, needed: Numbers, misses_of: Misses, replay: Replay) -> CheckResult:
    """Check for every row with a radius that misses are rarer than `needed`.

    All true claims of the file pass with probability at least 1 − FALSE_ALARM; those that samples
    leave open pass only if the stated seed gives their hits. Samples confirm a false claim with
    probability at most FALSE_PASS. Both probabilities are spread evenly over the claims.

    Args:
        needed: (K,), for the K rows with a radius.
    """
    decision = decide(
        misses_of,
        needed,
        level=FALSE_PASS / claims.statements,
        alarm=FALSE_ALARM / claims.statements,
        limit=limit_of(claims),
    )
    again = _given_by_the_seed(claims, decision, needed, replay)
    rows = claims.balls.cpu().tolist()
    index = np.array([claims.certificates[i].index for i in rows], dtype=np.int64)
    unsure = ~(decision.confirmed | decision.refuted | again)
    complaints = []
    if decision.refuted.any():
        complaints.append(
            f"refuted by fresh samples (a true claim is with probability ≤ {FALSE_ALARM:g}): "
            f"{named(index[decision.refuted].tolist())}"
        )
    if unsure.any():
        complaints.append(
            f"not confirmed by {limit_of(claims):,} fresh samples, nor by the stated seed: "
            f"{named(index[unsure].tolist())}"
        )
    said = (
        f"{int(decision.confirmed.sum())} of {len(index)} radii confirmed by "
        f"{int(decision.drawn.sum()):,} samples ({limit_of(claims):,} at most each), a false one "
        f"with probability ≤ {FALSE_PASS:g}"
    )
    if again.any():
        left = named(index[again].tolist())
        said += f"; samples leave open, and only the stated seed gives, the radius of {left}"
    return CheckResult(
        f"{claims.method}: fresh samples support the radius",
        not complaints,
        f"{'; '.join(complaints) or said} (seed {claims.seed})",
    )


def limit_of(claims: Claims) -> int:
    """Return the largest number of fresh samples of one claim."""
    return min(claims.limit, max(LEAST, OFTEN * int(claims.setting("n"))))


def _given_by_the_seed(
    claims: Claims, decision: Decision, needed: Numbers, replay: Replay
) -> NDArray[np.bool_]:
    """Return (K,): whether the stated seed gives at least the stated radius, for rows that samples
    left open. The author of the file chose the seed, so it decides only where samples can't."""
    given = np.zeros(len(needed), dtype=np.bool_)
    open_ = np.flatnonzero(~(decision.confirmed | decision.refuted))
    n0, n, alpha = (claims.setting(name) for name in ("n0", "n", "alpha"))
    if len(open_) == 0 or n0 + n > claims.limit:
        return given
    rows = claims.balls.cpu()[torch.from_numpy(open_)]
    classes, hits = replay(claims, rows.tolist())
    # as in `follows_from_hits`, last digits may differ
    p_lower, _ = clopper_pearson(hits, int(n), float(alpha))
    enough = 1.0 - p_lower <= needed[open_] * (1 + 1e-5)
    given[open_] = enough & (classes == claims.y.cpu()[rows].numpy())
    return given
