"""Randomised synonym smoothing: Ye, Gong & Liu 2020 (SAFER, arXiv 2005.14424).

The smoothed classifier answers g(x) = argmax_c P(f(Z) = c), where Z puts into every slot i of the
sentence a word drawn uniformly from P(x_i), independently of the others.  What is certified is g,
not the classifier f, which is only asked for its answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.text import Classify, Words, split
from attacks.text.words import like
from robustprune.certify.smoothing import ABSTAIN, clopper_pearson_lower
from robustprune.run.progress import progress
from robustprune.run.runtime import merged, rank, ranks

#: a word in lower case -> words that may stand in its place; the word itself need not be among them
WordSets = Callable[[str], Sequence[str]]

#: 1e-12: more than products of overlaps can round down; a certificate must not hang on it
_SURE = 0.5 + 1e-12


@dataclass(frozen=True)
class SynonymResult:
    """What is certified of N texts; all tensors on the CPU.

    Attributes:
        prediction: (N,) int64, the class of g, or ABSTAIN.
        substitutions: (N,) int64, R: g answers `prediction` for every sentence in which at most R
            words were put in the place of others by the adversary; −1 where it abstains.
        open_slots: (N,) int64, words that the adversary can replace at all: with R as large as
            this, every sentence that it can make is certified.
        p_lower: (N,) float64, lower bound of p_A, of confidence 1 − alpha each.
        hits: (N,) int64, samples of n that fell into the selected class.
        n0, n, alpha: as given.
    """

    prediction: Tensor
    substitutions: Tensor = field(repr=False)
    open_slots: Tensor = field(repr=False)
    p_lower: Tensor = field(repr=False)
    hits: Tensor = field(repr=False)
    n0: int
    n: int
    alpha: float

    def certified_accuracy(
        self, labels: Tensor | Sequence[int], substitutions: int | None = None
    ) -> float:
        """Share of texts answered with their label under R substitutions; None for any number."""
        needed = self.open_slots
        if substitutions is not None:
            needed = needed.clamp(max=substitutions)
        right = (self.prediction == torch.as_tensor(labels).cpu()) & (self.substitutions >= needed)
        return right.double().mean().item()


def certify_synonyms(
    classify: Classify,
    texts: Sequence[str],
    noise: WordSets,
    *,
    adversary: WordSets | None = None,
    n0: int = 100,
    n: int = 1000,
    alpha: float = 0.001,
    batch_size: int = 256,
    seed: int = 0,
    title: str = "synonym smoothing",
    quiet: bool = True,
) -> SynonymResult:
    """A class of the smoothed classifier and the number of substitutions that can't change it.

    n0 samples select the likeliest class; n fresh ones give its Clopper-Pearson bound p_A of
    confidence 1 − α.  A sentence x' that differs from x in the slots T has

        p_A(x') ≥ p_A(x) − (1 − Π_{i∈T} o_i),   o_i = min over x'_i of |P(x_i) ∩ P(x'_i)| /
                                                       max(|P(x_i)|, |P(x'_i)|),

    since o is 1 minus the total variation between two uniform draws and the slots are independent;
    for sets of equal size this is Theorem 1 and q_x of the paper.  The class stays where the right
    side is above 1/2; R takes the smallest o_i together.

    Several ranks share the texts out among them; each gets the whole result.

    Args:
        classify: texts -> logits (n, C).
        noise: P without the word itself, which is always added.
        adversary: S(w), what may be put in the place of w; `noise` by default.
        n0, n, alpha: as in ``certify`` of Gaussian smoothing.
        batch_size: texts in one call of the classifier.
        seed: the samples of text i depend on seed and i alone.
        title: of the progress bar; quiet: no progress bar.

    Raises:
        ValueError: options out of range, n too small to certify anything at this α, a set that
            holds something else than single words, logits that are not (n, C) or are NaN.
    """
    _check(n0=n0, n=n, alpha=alpha, batch_size=batch_size, seed=seed)
    sets = _Sets(noise)
    split_texts = [split(text) for text in texts]
    guess, hits = (torch.zeros(len(texts), dtype=torch.int64) for _ in range(2))
    own = range(len(texts))[rank() :: ranks()]
    for index in progress(own, title=title, unit="text", quiet=quiet):
        samples = _noisy(split_texts[index], sets, n0 + n, (seed, index))
        answers = _answers(classify, samples, batch_size)
        guess[index] = int(np.bincount(answers[:n0]).argmax())
        hits[index] = int((answers[n0:] == int(guess[index])).sum())
    guess, hits = merged(torch.stack((guess, hits)))
    p_lower = torch.from_numpy(clopper_pearson_lower(hits.numpy(), n, alpha))
    chosen = _Sets(adversary) if adversary is not None else sets
    reach = [
        _reach(words, float(p), sets, chosen) for words, p in zip(split_texts, p_lower, strict=True)
    ]
    return SynonymResult(
        prediction=torch.where(p_lower > _SURE, guess, ABSTAIN),
        substitutions=torch.tensor([r for r, _ in reach], dtype=torch.int64),
        open_slots=torch.tensor([slots for _, slots in reach], dtype=torch.int64),
        p_lower=p_lower,
        hits=hits,
        n0=n0,
        n=n,
        alpha=alpha,
    )


def _reach(words: Words, p_lower: float, noise: _Sets, adversary: _Sets) -> tuple[int, int]:
    """R, and the words that can be replaced at all."""
    overlaps = np.sort([_overlap(word, noise, adversary) for word in words.words])
    # lost[R]: total variation of the R worst slots; slots with o = 1 can lose nothing
    lost = 1.0 - np.cumprod(np.concatenate([[1.0], overlaps]))
    open_slots = sum(len(adversary(word)) > 1 for word in words.words)
    return int((p_lower - lost[: open_slots + 1] > _SURE).sum()) - 1, open_slots


def synonym_groups(
    vocabulary: Sequence[str], synonyms: WordSets, *, most: int = 50
) -> Callable[[str], tuple[str, ...]]:
    """Cut the vocabulary and its synonyms into groups: every word of a group has the same set.

    Words are taken in order, each with its synonyms in order; two groups are joined where the
    result has at most `most` words.  With such sets o = 1 for every word: where the smoothed
    classifier answers, any number of substitutions within the groups is certified.

    Raises:
        ValueError: `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"most={most} must be at least 1, as in 50 words")
    group_of: dict[str, list[str]] = {}
    for word in vocabulary:
        own = group_of.setdefault(word, [word])
        for synonym in synonyms(word):
            other = group_of.setdefault(synonym, [synonym])
            if other is not own and len(own) + len(other) <= most:
                own += other
                for member in other:
                    group_of[member] = own
    groups = {word: tuple(group) for word, group in group_of.items()}
    return lambda word: groups.get(word, ())


@dataclass(frozen=True)
class Sentences:
    """A test split as it is written, and how to ask about it.

    Attributes:
        texts: all of them, in the order of the split.
        classify: texts -> logits (n, C) of the network.
        synonyms: a word in lower case -> what may stand for it.
    """

    texts: Sequence[str]
    classify: Classify
    synonyms: WordSets

    def groups(self, most: int) -> WordSets:
        """`synonym_groups` of the words of all the texts: the same for each of them, however many
        are certified."""
        vocabulary = {word.lower() for text in self.texts for word in split(text).words}
        return synonym_groups(sorted(vocabulary), self.synonyms, most=most)


def substitutes(text: str, noise: WordSets, n: int, seed: tuple[int, ...]) -> list[str]:
    """n samples of Z for one text."""
    return list(_noisy(split(text), _Sets(noise), n, seed))


class _Sets:
    """P(word) with the word itself, in the word's case, without repetition."""

    def __init__(self, words: WordSets) -> None:
        self._words = words
        self._known: dict[str, tuple[str, ...]] = {}

    def __call__(self, word: str) -> tuple[str, ...]:
        if word not in self._known:
            others = [like(word, other) for other in self._words(word.lower())]
            for other in others:
                if split(other).words != (other,):
                    # another number of slots would not be what is certified
                    raise ValueError(
                        f"the set of {word!r} holds {other!r}, which is not a single word; leave "
                        "it out"
                    )
            self._known[word] = tuple(dict.fromkeys([word, *others]))
        return self._known[word]


def _overlap(word: str, noise: _Sets, adversary: _Sets) -> float:
    """o: the least share that the noise of the word and of what may replace it have in common."""
    own = frozenset(noise(word))
    return min(
        len(own & other) / max(len(own), len(other))
        for other in (frozenset(noise(replacement)) for replacement in adversary(word))
    )


def _noisy(words: Words, noise: _Sets, n: int, seed: tuple[int, ...]) -> Iterator[str]:
    """n samples of Z."""
    sets = [noise(word) for word in words.words]
    draws = np.random.default_rng(seed).integers(
        [len(s) for s in sets], size=(n, len(sets)), dtype=np.int64
    )
    for row in draws:
        drawn = tuple(s[k] for s, k in zip(sets, row, strict=True))
        yield Words(drawn, words.gaps).text


@torch.no_grad()
def _answers(classify: Classify, texts: Iterator[str], batch_size: int) -> NDArray[np.int64]:
    """The class of every text."""
    parts = []
    while part := list(islice(texts, batch_size)):
        logits = classify(part)
        if logits.dim() != 2 or len(logits) != len(part) or bool(logits.isnan().any()):
            raise ValueError(
                f"classify must answer {len(part)} texts with ({len(part)}, C) logits without "
                f"NaN, got {tuple(logits.shape)}"
            )
        parts.append(logits.argmax(1).cpu().numpy())
    return np.concatenate(parts)


def _check(*, n0: int, n: int, alpha: float, batch_size: int, seed: int) -> None:
    for name, value, least in (
        ("n0", n0, 1), ("n", n, 1), ("batch_size", batch_size, 1), ("seed", seed, 0),
    ):  # fmt: skip
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha} must lie in (0, 1), as in 0.001")
    if alpha ** (1 / n) <= 0.5:
        least_n = math.floor(math.log(alpha) / math.log(0.5)) + 1
        raise ValueError(
            f"n={n} samples can't certify anything at alpha={alpha:g}, even if all are hits; use "
            f"at least n={least_n}"
        )
