"""Rank the words that an attack changes; rankings are generators that query, then sort.

A ranking receives a `RankingInput` and returns steps in the order in which the attack takes them.
Each step is a slot with the replacements to try there. Slots without a replacement are not queried.
If the budget ends early, the answers so far are ranked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from attacks.text.request import Array, Search, probabilities
from attacks.text.words import Words

UNKNOWN = "[UNK]"


@dataclass(frozen=True)
class RankingInput:
    """A sentence that is attacked.

    Attributes:
        words: the words of the sentence.
        label: its true class.
        clean: (C,), the probabilities of the unchanged sentence.
        candidates: slot -> the replacements that satisfy all constraints, at least one per slot.
    """

    words: Words
    label: int
    clean: Array
    candidates: Mapping[int, tuple[str, ...]]


Steps = list[tuple[int, tuple[str, ...]]]
Ranking = Callable[[RankingInput], Search[Steps]]


def by_deletion(given: RankingInput) -> Search[Steps]:
    """Rank by I_i = F_y(X) − F_y(X∖w_i), plus F_z(X∖w_i) − F_z(X) if the class changes to z.

    X∖w_i is the text without the word w_i. Jin et al. 2020 (TextFooler, arXiv 1907.11932), eq. 2;
    the first difference is the score of Li et al. 2019 (TextBugger, arXiv 1812.05271), §III-C.
    """
    slots = list(given.candidates)
    p = yield from probabilities([given.words.without(i) for i in slots])
    clean, y = given.clean, given.label
    score = clean[y] - p[:, y]
    z = p.argmax(1)
    turned = z != y
    score = score + turned * (p[np.arange(len(p)), z] - clean[z])
    return _sorted(given, slots, score)


def by_unknown(token: str = UNKNOWN) -> Ranking:
    """Rank by I_i = F_y(X) − F_y(X with w_i replaced by a token without meaning).

    With "[MASK]" this is the ranking of Li et al. 2020 (BERT-Attack, arXiv 2004.09984), eq. 2.
    """

    def rank(given: RankingInput) -> Search[Steps]:
        slots = list(given.candidates)
        drop = yield from _unknown_drop(given, slots, token)
        return _sorted(given, slots, drop)

    return rank


def by_context(tail_weight: float = 1.0) -> Ranking:
    """Rank by the temporal head score plus λ times the temporal tail score.

    F_y(w_1 … w_i) − F_y(w_1 … w_{i−1}) + λ (F_y(w_i … w_n) − F_y(w_{i+1} … w_n)): Gao et al. 2018
    (DeepWordBug, arXiv 1801.04354), §III-B.
    """

    def rank(given: RankingInput) -> Search[Steps]:
        words, n = given.words, len(given.words)
        slots = list(given.candidates)
        bounds = [
            part for i in slots for part in ((0, i + 1), (0, i), (i, n), (i + 1, n))
        ]  # neighbouring slots share parts, and a repeated text costs only one query
        p = (yield from probabilities([words.part(*part) for part in bounds]))[:, given.label]
        p = p[: len(p) // 4 * 4].reshape(-1, 4)
        return _sorted(given, slots, p[:, 0] - p[:, 1] + tail_weight * (p[:, 2] - p[:, 3]))

    return rank


def by_saliency(token: str = UNKNOWN) -> Ranking:
    """Rank by probability-weighted word saliency, softmax(S)_i · ΔP*_i.

    ΔP*_i is the maximum over the replacements of F_y(X) − F_y(X with w_i replaced), and S is the
    decrease of F_y with an unknown word: Ren et al. 2019 (PWWS, ACL 2019), eq. 4 to 8. The softmax
    runs over the slots that have a replacement.
    """

    def rank(given: RankingInput) -> Search[Steps]:
        slots = list(given.candidates)
        saliency = yield from _unknown_drop(given, slots, token)
        variants = [(i, word) for i in slots for word in given.candidates[i]]
        texts = [given.words.replaced(i, word).text for i, word in variants]
        p = (yield from probabilities(texts))[:, given.label]
        best: dict[int, tuple[float, str]] = {}
        for (i, word), value in zip(variants, p, strict=False):  # the budget may cut the answer
            drop = float(given.clean[given.label] - value)
            if i not in best or drop > best[i][0]:
                best[i] = (drop, word)
        weight = np.exp(saliency - saliency.max(initial=0.0))
        weight /= weight.sum() or 1.0
        score = {i: weight[k] * best[i][0] for k, i in enumerate(slots) if i in best}
        return [(i, (best[i][1],)) for i in sorted(score, key=lambda i: -score[i])]

    return rank


def _unknown_drop(given: RankingInput, slots: list[int], token: str) -> Search[Array]:
    texts = [given.words.replaced(i, token).text for i in slots]
    p = yield from probabilities(texts)
    drop: Array = given.clean[given.label] - p[:, given.label]
    return drop


def _sorted(given: RankingInput, slots: list[int], score: Array) -> Steps:
    """Return the slots that have a score, highest first, ties in the order of the text."""
    order = np.argsort(-score, kind="stable")
    return [(slots[k], given.candidates[slots[k]]) for k in order]
