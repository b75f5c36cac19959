"""Check claims about replaced words: by fresh synonyms for the sentence and for changed
sentences."""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch

from robustprune.certify.claims import Claims
from robustprune.certify.findings import CheckResult
from robustprune.certify.recheck import Check
from robustprune.certify.resample import (
    FALSE_ALARM,
    FALSE_PASS,
    Misses,
    follows_from_hits,
    limit_of,
    supported,
)
from robustprune.certify.sequential import Counts, Numbers, decide
from robustprune.certify.synonyms import (
    answers,
    needed_share,
    substitutes,
    votes_on,
    worst_replaced,
)
from robustprune.run.progress import Progress


def radius_and_hits(claims: Claims) -> CheckResult:
    """Check that the hits and the words of the sentence give each radius."""
    shares = _shares(claims)
    return follows_from_hits(claims, lambda row, p_lower: float((p_lower > shares[row]).sum()))


def replaceable_words(claims: Claims) -> CheckResult:
    """Check how many words of each sentence can be replaced, by which a radius covers all words."""
    counts = [len(shares) - 1 for shares in _shares(claims)]
    wrong = [
        row
        for row, (c, count) in enumerate(zip(claims.certificates, counts, strict=True))
        if c.replaceable not in (count, None)
        # files of schema 1 do not have it: their radii are larger than the number of words
        or (c.replaceable is None and 0 < c.radius <= count)
    ]
    return claims.finding(
        "words that can be replaced",
        torch.tensor(wrong),
        f"counted in {len(counts)} sentences",
        "another number of words can be replaced",
    )


def synonyms_again(claims: Claims) -> CheckResult:
    """Check that fresh synonyms give the class the share that each radius needs."""
    shares = _shares(claims)
    # a radius beyond the number of words needs the share of the last word
    needed = [
        1.0 - shares[i][min(int(claims.certificates[i].radius), len(shares[i])) - 1]
        for i in claims.balls.tolist()
    ]
    texts = [claims.texts[i] for i in claims.balls.tolist()]
    return supported(claims, np.array(needed), _fresh_synonyms(claims, texts), _replayed)


def replaced_inside(claims: Claims) -> CheckResult:
    """Replace as many words as each radius allows, those that cost most votes. The class must keep
    its majority."""
    groups, texts = claims.groups, []
    for i in claims.balls.tolist():
        allowed = int(claims.certificates[i].radius) - 1
        text, seed = claims.texts[i], (claims.seed, claims.certificates[i].index, 1)
        texts.append(worst_replaced(text, groups, allowed, seed))
    decision = decide(
        _fresh_synonyms(claims, texts),
        np.full(len(texts), 0.5),
        level=FALSE_PASS,  # only stops the sampling where the majority is clear
        alarm=FALSE_ALARM / claims.statements,
        limit=limit_of(claims),
    )
    return claims.finding(
        "another sentence within the radius is answered alike",
        claims.balls.cpu()[torch.from_numpy(decision.refuted)],
        f"{len(texts)} sentences with words replaced, seed {claims.seed}; false alarms ≤ "
        f"{FALSE_ALARM:g}",
        f"another sentence within the radius is answered otherwise (seed {claims.seed})",
    )


def _shares(claims: Claims) -> list[Numbers]:
    """Return `needed_share` of every sentence."""
    groups = claims.groups
    return [needed_share(text, groups, groups) for text in claims.texts]


def _fresh_synonyms(claims: Claims, around: list[str]) -> Misses:
    """Return a function that counts misses with synonyms of texts, for the rows with a radius."""
    groups, labels = claims.groups, claims.y[claims.balls].cpu().numpy()
    streams = [
        substitutes(text, groups, None, (claims.seed, claims.certificates[i].index))
        for text, i in zip(around, claims.balls.tolist(), strict=True)
    ]
    told = Progress(None, title="fresh synonyms", unit="sample", quiet=claims.quiet)

    def misses_of(rows: Counts, samples: int) -> Counts:
        misses = []
        for row in rows.tolist():
            texts = islice(streams[row], samples)
            given = answers(claims.words.classify, texts, claims.batch_size)
            misses.append(int((given != labels[row]).sum()))
            told.update(samples)
        return np.array(misses, dtype=np.int64)

    return misses_of


def _replayed(claims: Claims, rows: list[int]) -> tuple[Counts, Counts]:
    """Return the class and the hits of some rows with the stated seed."""
    votes = [
        votes_on(
            claims.words.classify,
            claims.texts[row],
            claims.groups,
            n0=int(claims.setting("n0")),
            n=int(claims.setting("n")),
            seed=(int(claims.setting("seed")), claims.certificates[row].index),
        )
        for row in rows
    ]
    classes, hits = np.array(votes, dtype=np.int64).T
    return classes, hits


SYNONYM_CHECKS: tuple[Check, ...] = (
    radius_and_hits,
    replaceable_words,
    synonyms_again,
    replaced_inside,
)
