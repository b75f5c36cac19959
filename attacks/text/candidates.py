"""Replacements for words that depend on the word only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attacks.text.words import Words, like


@dataclass(frozen=True)
class ByWord:
    """Take candidates from a function of the word, which is called once per word.

    Words are looked up in lower case, and the replacement gets the case of the word.

    Args:
        replacements: function of a word in lower case that returns words which may replace it.
    """

    replacements: Callable[[str], Sequence[str]]

    def __call__(self, sentences: Sequence[Words]) -> list[list[tuple[str, ...]]]:
        words = {word.lower() for sentence in sentences for word in sentence.words}
        known = {word: self.replacements(word) for word in sorted(words)}
        return [
            [tuple(like(word, new) for new in known[word.lower()]) for word in sentence.words]
            for sentence in sentences
        ]
