"""Randomised synonym smoothing: Ye, Gong & Liu 2020 (SAFER, arXiv 2005.14424).

The smoothed classifier answers g(x) = argmax_c P(f(Z) = c), where Z has at every position i of the
sentence a word drawn uniformly from P(x_i), independently of the others.  The certificate is for g,
not for the classifier f, of which only the answers are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.text import Classify, Words, split
from attacks.text.words import like
from robustprune.certify.smoothing import ABSTAIN, check_enough, check_sampling
from robustprune.measure.statistics import clopper_pearson
from robustprune.run.progress import progress
from robustprune.run.runtime import merged, rank, ranks

#: a word in lower case -> words that may replace it; the word itself need not be among them
WordSets = Callable[[str], Sequence[str]]

#: 1e-12 is more than the rounding of products of overlaps, on which no certificate may depend
_SURE = 0.5 + 1e-12
#: the number of samples that are drawn at a time if their number is not limited
_PIECE = 256


@dataclass(frozen=True)
class SynonymResult:
    """What is certified for N texts. All tensors are on the CPU.

    Attributes:
        prediction: (N,) int64, the class of g, or ABSTAIN.
        substitutions: (N,) int64, R: g answers `prediction` for every sentence in which the
            adversary replaced at most R words; −1 where it abstains.
        open_slots: (N,) int64, the number of words that the adversary can replace at all; if R is
            as large, every sentence that it can make is certified.
        p_lower: (N,) float64, lower bounds of p_A, each with confidence 1 − alpha.
        hits: (N,) int64, the number of the n samples in the selected class.
        n0, n, alpha: as in `certify_synonyms`.
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
        """Return the share of texts that get their label under R substitutions (None: any)."""
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
    """Return the class of the smoothed classifier, and how many substitutions can't change it.

    n0 samples select the most frequent class; n fresh ones give its Clopper-Pearson bound p_A with
    confidence 1 − α.  A sentence x' that differs from x at the positions T has

        p_A(x') ≥ p_A(x) − (1 − Π_{i∈T} o_i),   o_i = min over x'_i of |P(x_i) ∩ P(x'_i)| /
                                                       max(|P(x_i)|, |P(x'_i)|),

    because o is 1 minus the total variation between two uniform draws and the positions are
    independent; for sets of equal size this is Theorem 1 and q_x of the paper.  The class does not
    change if the right side is above 1/2; R counts the smallest o_i together.

    Several ranks share the texts; each rank gets the whole result.

    Args:
        classify: a function from texts to logits (n, C).
        noise: P without the word itself, which is always added.
        adversary: S(w), the words by which w may be replaced; None for `noise`.
        n0, n, alpha: as in ``certify`` of Gaussian smoothing.
        batch_size: the number of texts in one call of the classifier.
        seed: the seed; the samples of text i depend only on it and on i.
        title: the title of the progress bar; quiet: whether the bar is hidden.

    Raises:
        ValueError: an option is out of range, n is too small to certify anything at this α, a set
            contains something else than single words, or logits are not (n, C) or are NaN.
    """
    check_sampling(n0=n0, n=n, alpha=alpha, batch_size=batch_size, seed=seed)
    check_enough(n, alpha)
    sets, chosen = _Sets.of(noise), _Sets.of(noise if adversary is None else adversary)
    guess, hits = (torch.zeros(len(texts), dtype=torch.int64) for _ in range(2))
    own = range(len(texts))[rank() :: ranks()]
    for index in progress(own, title=title, unit="text", quiet=quiet):
        guess[index], hits[index] = votes_on(
            classify, texts[index], sets, n0=n0, n=n, seed=(seed, index), batch_size=batch_size
        )
    guess, hits = merged(torch.stack((guess, hits)))
    p_lower = torch.from_numpy(clopper_pearson(hits.numpy(), n, alpha)[0])
    needed = [needed_share(text, sets, chosen) for text in texts]
    reach = [int((float(p) > share).sum()) - 1 for p, share in zip(p_lower, needed, strict=True)]
    return SynonymResult(
        prediction=torch.where(p_lower > _SURE, guess, ABSTAIN),
        substitutions=torch.tensor(reach, dtype=torch.int64),
        open_slots=torch.tensor([len(share) - 1 for share in needed], dtype=torch.int64),
        p_lower=p_lower,
        hits=hits,
        n0=n0,
        n=n,
        alpha=alpha,
    )


def votes_on(
    classify: Classify,
    text: str,
    noise: WordSets,
    *,
    n0: int,
    n: int,
    seed: tuple[int, ...],
    batch_size: int = 256,
) -> tuple[int, int]:
    """Return the class that n0 samples select, and how many of n fresh samples it gets."""
    given = answers(classify, substitutes(text, noise, n0 + n, seed), batch_size)
    guess = int(np.bincount(given[:n0]).argmax())
    return guess, int((given[n0:] == guess).sum())


def needed_share(text: str, noise: WordSets, adversary: WordSets) -> NDArray[np.float64]:
    """Return the value that p_A must exceed, so that R replaced words can't change the class of g.

    Returns:
        (open + 1,): 1/2 + 1 − Π o_i over the R smallest o_i, for R from 0 to the number of words
        that the adversary can replace.
    """
    sets, chosen, words = _Sets.of(noise), _Sets.of(adversary), split(text).words
    overlaps = np.sort([_overlap(word, sets, chosen) for word in words])
    # positions with o = 1 lose nothing
    lost = 1.0 - np.cumprod(np.concatenate([[1.0], overlaps]))
    open_slots = sum(len(chosen(word)) > 1 for word in words)
    return np.asarray(_SURE + lost[: open_slots + 1], dtype=np.float64)


def substitutes(text: str, noise: WordSets, n: int | None, seed: tuple[int, ...]) -> Iterator[str]:
    """Yield n samples of Z for one text, or samples without end if n is None."""
    words, sets, rng = split(text), _Sets.of(noise), np.random.default_rng(seed)
    if n is not None:
        yield from _noisy(words, sets, n, rng)
        return
    while True:
        yield from _noisy(words, sets, _PIECE, rng)


def worst_replaced(text: str, noise: WordSets, replaced: int, seed: tuple[int, ...]) -> str:
    """Return the text with this number of words replaced, at the positions and by the words that
    lower p_A most; equal choices are made at random."""
    sets, words = _Sets.of(noise), split(text)
    rng = np.random.default_rng(seed)
    choices = []
    for slot, word in enumerate(words.words):
        others = [other for other in sets(word) if other != word]
        if others:
            ranked = [(_shared(sets, word, other), rng.random(), other) for other in others]
            choices.append((*min(ranked), slot))
    for _, _, other, slot in sorted(choices)[:replaced]:
        words = words.replaced(slot, other)
    return words.text


class _Sets:
    """P(word) with the word itself, in the word's case and without repetition."""

    def __init__(self, words: WordSets) -> None:
        self._words = words
        self._known: dict[str, tuple[str, ...]] = {}

    @staticmethod
    def of(words: WordSets) -> _Sets:
        """Return the sets; if they are `_Sets` already, return them with their cache."""
        return words if isinstance(words, _Sets) else _Sets(words)

    def __call__(self, word: str) -> tuple[str, ...]:
        if word not in self._known:
            others = [like(word, other) for other in self._words(word.lower())]
            for other in others:
                if split(other).words != (other,):
                    # the certificate is for this number of positions only
                    raise ValueError(
                        f"the set of {word!r} holds {other!r}, which is not a single word; leave "
                        "it out"
                    )
            self._known[word] = tuple(dict.fromkeys([word, *others]))
        return self._known[word]


def _overlap(word: str, noise: _Sets, adversary: _Sets) -> float:
    """Return o, the least share that the noise of the word and of its replacements have in
    common."""
    return min(_shared(noise, word, other) for other in adversary(word))


def _shared(noise: _Sets, word: str, other: str) -> float:
    """Return 1 minus the total variation between the noises of two words."""
    own, others = frozenset(noise(word)), frozenset(noise(other))
    return len(own & others) / max(len(own), len(others))


def _noisy(words: Words, noise: _Sets, n: int, rng: np.random.Generator) -> Iterator[str]:
    """Yield n samples of Z."""
    sets = [noise(word) for word in words.words]
    draws = rng.integers([len(s) for s in sets], size=(n, len(sets)), dtype=np.int64)
    for row in draws:
        drawn = tuple(s[k] for s, k in zip(sets, row, strict=True))
        yield Words(drawn, words.gaps).text


@torch.no_grad()
def answers(classify: Classify, texts: Iterator[str], batch_size: int) -> NDArray[np.int64]:
    """Return the class of every text.

    Raises:
        ValueError: logits are not (n, C) or are NaN.
    """
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
