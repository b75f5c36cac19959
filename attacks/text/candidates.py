"""Replacements for words, one word at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attacks.text.words import Words, like


@dataclass(frozen=True)
class ByWord:
    """Candidates from a function of the word alone, asked once a word.

    Words are looked up in lower case, and the replacement takes the word's own case.

    Args:
        replacements: a word in lower case -> others that may stand in its place.
    """

    replacements: Callable[[str], Sequence[str]]

    def __call__(self, sentences: Sequence[Words]) -> list[list[tuple[str, ...]]]:
        words = {word.lower() for sentence in sentences for word in sentence.words}
        known = {word: self.replacements(word) for word in sorted(words)}
        return [
            [tuple(like(word, new) for new in known[word.lower()]) for word in sentence.words]
            for sentence in sentences
        ]
