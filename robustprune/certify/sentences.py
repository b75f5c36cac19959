"""Sentences that are certified against synonyms: the groups of words, and the classifier of
texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attacks.text import Classify, split
from robustprune.certify.synonyms import WordSets


def synonym_groups(
    vocabulary: Sequence[str], synonyms: WordSets, *, most: int = 50
) -> Callable[[str], tuple[str, ...]]:
    """Divide the vocabulary and its synonyms into groups. Every word of a group has the same set.

    Words are processed in order, each with its synonyms in order; two groups are merged if the
    result has at most `most` words. With such sets o = 1 for every word in lower case, or with a
    capital, or in capitals: where the smoothed classifier answers, any number of substitutions
    within the groups is certified. Words in another case, such as TVs, are not in the sets of their
    synonyms, and o is smaller.

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
class ClassifiedTexts:
    """A test split as it is written, with its classifier.

    Attributes:
        texts: all texts, in the order of the split.
        classify: a function from texts to logits (n, C) of the network.
        synonyms: a function from a word in lower case to the words that may replace it.
    """

    texts: Sequence[str]
    classify: Classify
    synonyms: WordSets

    def groups(self, most: int) -> WordSets:
        """Return `synonym_groups` of the words of all texts, which do not depend on the number of
        texts that are certified."""
        vocabulary = {word.lower() for text in self.texts for word in split(text).words}
        return synonym_groups(sorted(vocabulary), self.synonyms, most=most)
