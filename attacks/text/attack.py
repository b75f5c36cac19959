"""The greedy word-by-word attack that TextFooler, TextBugger, PWWS and BERT-Attack share."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from attacks.geometry import brief
from attacks.inputs import check_at_least, check_number, given
from attacks.text.constraints import TextConstraint
from attacks.text.engine import Embed, drive
from attacks.text.ranking import Ranking, RankingInput
from attacks.text.request import Search, embeddings, probabilities
from attacks.text.result import Classify, Status, TextResult
from attacks.text.words import Words, split

#: sentences -> for each sentence and each slot, the replacements to try
Candidates = Callable[[Sequence[Words]], list[list[tuple[str, ...]]]]


class _Found(NamedTuple):
    words: Words
    original: Words
    status: Status


def check_texts(texts: Sequence[str], labels: Sequence[int] | Tensor) -> list[int]:
    """Return the labels as integers.

    Raises:
        ValueError: labels are not one whole number per text, or texts are a single string.
    """
    try:
        y = [operator.index(label) for label in labels]
    except TypeError as error:
        raise ValueError(f"labels={brief(labels)} must be whole numbers, one per text") from error
    if isinstance(texts, str) or len(texts) != len(y):
        raise ValueError(
            f"{len(y)} labels do not fit {len(texts)} texts; pass a list of texts and one label "
            "each"
        )
    return y


@dataclass(frozen=True)
class TextAttack:
    """Change one word after the other, in order of importance, until the class changes.

    In each step, all replacements of a word that satisfy the constraints are queried together. If
    some of them change the class, the result is the one whose sentence is most similar in meaning
    (without `embed`: the one with the lowest F_y). Otherwise the one with the lowest F_y is kept if
    it lowers F_y = softmax(logits)_y.

    The attack is black-box: the classifier is only queried for logits. Many sentences are attacked
    at the same time, so that each call has `batch_size` texts; the queries and answers of a
    sentence do not depend on the other sentences.

    Args:
        name: name of the attack in reports.
        ranking: function that orders the words, from ``attacks.text.ranking``.
        candidates: function of sentences that returns, for each, the replacements of each slot.
        constraints: functions that must all allow the changed sentence.
        embed: function of texts that returns embeddings (n, D); None for no similarity constraint.
        min_similarity: smallest allowed cosine between the embeddings of the original and the
            changed text.
        queries: largest number of queries for one sentence, including the first one; None for no
            limit.
        batch_size: number of texts in one call of the classifier.

    Raises:
        ValueError: an option is out of range; at the call, texts and labels do not fit, or
            `classify` does not return (n, C ≥ 2) or returns NaN.
    """

    name: str
    ranking: Ranking
    candidates: Candidates
    _: KW_ONLY
    constraints: tuple[TextConstraint, ...] = ()
    embed: Embed | None = None
    min_similarity: float = -1.0
    queries: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_at_least(1, batch_size=self.batch_size, **given(queries=self.queries))
        check_number("in [-1, 1], a cosine", min_similarity=self.min_similarity)
        if self.embed is None and self.min_similarity > -1:
            raise ValueError(
                f"min_similarity={self.min_similarity} needs embed, a function of texts; "
                "attacks.text.minilm() is one"
            )

    def __call__(
        self, classify: Classify, texts: Sequence[str], labels: Sequence[int] | Tensor
    ) -> list[TextResult]:
        """Attack every text; return one result per text, in the same order."""
        y = check_texts(texts, labels)
        results: dict[int, TextResult] = {}
        ends = drive(
            self._searches(texts, y),
            classify,
            self.embed,
            batch_size=self.batch_size,
            budget=self.queries,
        )
        for index, found, queries in ends:
            changed = found.words.changed_from(found.original)
            results[index] = TextResult(
                text=texts[index],
                label=y[index],
                adversarial=found.words.text,
                status=found.status,
                queries=queries,
                words=len(found.original),
                changed=len(changed),
            )
        return [results[index] for index in range(len(texts))]

    def _searches(self, texts: Sequence[str], labels: list[int]) -> Iterator[Search[_Found]]:
        """Yield one search per text; candidates are looked up for `batch_size` texts at a time."""
        for start in range(0, len(texts), self.batch_size):
            sentences = [split(text) for text in texts[start : start + self.batch_size]]
            proposed = self.candidates(sentences)
            part = labels[start : start + self.batch_size]
            for words, slots, label in zip(sentences, proposed, part, strict=True):
                yield self._search(words, slots, label)

    def _search(self, words: Words, proposed: list[tuple[str, ...]], label: int) -> Search[_Found]:
        clean = (yield from probabilities([words.text]))[0]
        if not 0 <= label < len(clean):
            raise ValueError(f"label {label} must lie in 0, …, {len(clean) - 1}")
        if clean.argmax() != label:
            return _Found(words, words, "skipped")
        allowed = {
            i: tuple(new for new in dict.fromkeys(words_for) if self._allows(words, words, i, new))
            for i, words_for in enumerate(proposed)
        }
        candidates = {i: replacements for i, replacements in allowed.items() if replacements}
        if not candidates:
            return _Found(words, words, "failed")
        steps = yield from self.ranking(RankingInput(words, label, clean, candidates))
        home = (yield from embeddings([words.text]))[0] if self.embed is not None else None
        current, lowest = words, float(clean[label])
        for i, replacements in steps:
            tried = [
                current.replaced(i, new)
                for new in replacements
                if self._allows(words, current, i, new)
            ]
            similarity = np.zeros(len(tried))
            if home is not None and tried:
                similarity = (yield from embeddings([t.text for t in tried])) @ home
                keep = np.flatnonzero(similarity >= self.min_similarity)
                tried, similarity = [tried[k] for k in keep], similarity[keep]
            if not tried:
                continue
            p = yield from probabilities([t.text for t in tried])
            flips = np.flatnonzero(p.argmax(1) != label)
            if len(flips):
                closest = min(flips, key=lambda k: (-similarity[k], p[k, label]))
                return _Found(tried[closest], words, "success")
            if len(p) < len(tried):
                break  # the budget is used up
            k = int(p[:, label].argmin())
            if p[k, label] < lowest:
                current, lowest = tried[k], float(p[k, label])
        return _Found(words, words, "failed")

    def _allows(self, original: Words, current: Words, i: int, new: str) -> bool:
        """Return whether putting `new` into slot i changes the word and satisfies the
        constraints."""
        if new == original.words[i]:
            return False
        changed = current.replaced(i, new)
        return all(allows(original, changed) for allows in self.constraints)
