"""Replacements for words, one word at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attacks.text.words import Words, like


def by_word(
    replacements: Callable[[str], Sequence[str]],
) -> Callable[[Sequence[Words]], list[list[tuple[str, ...]]]]:
    """Candidates from a function of the word alone, asked once a word.

    Words are looked up in lower case, and the replacement takes the word's own case.
    """

    def propose(sentences: Sequence[Words]) -> list[list[tuple[str, ...]]]:
        known: dict[str, Sequence[str]] = {}
        for word in {word.lower() for words in sentences for word in words.words}:
            known[word] = replacements(word)
        return [
            [tuple(like(word, new) for new in known[word.lower()]) for word in words.words]
            for words in sentences
        ]

    return propose
