"""Misspellings that a reader hardly notices: the edits of TextBugger and of DeepWordBug."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence

# characters, with others that look similar
_LOOKALIKES = {
    "a": "@", "b": "6", "e": "3", "g": "9", "i": "1", "l": "1", "o": "0", "q": "9", "s": "5",
    "z": "2",
}  # fmt: skip

# keys, with the keys next to them on an English keyboard
_KEYS = {
    "q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij",
    "i": "uok", "o": "ipl", "p": "ol", "a": "qsz", "s": "awdx", "d": "sefc", "f": "drgv",
    "g": "fthb", "h": "gyjn", "j": "hukm", "k": "jil", "l": "ko", "z": "ax", "x": "zsc",
    "c": "xdv", "v": "cfb", "b": "vgn", "n": "bhm", "m": "nj",
}  # fmt: skip


def text_bugs(
    synonyms: Callable[[str], Sequence[str]] | None = None, *, nearest: int = 5, seed: int = 0
) -> Callable[[str], tuple[str, ...]]:
    """Return the five bugs of Li et al. 2019 (TextBugger, arXiv 1812.05271), §III-C, one per kind.

    They insert a space inside the word (of at most six letters), delete or swap inner letters,
    replace a letter by one that looks similar or is next to it on the keyboard, and replace the
    word by up to `nearest` others. The first three need words of at least three letters.

    Args:
        synonyms: function of a word that returns other words, nearest first; None omits the last
            bug.
        seed: seed of the places; the same word always has the same bugs.
    """

    def bugs(word: str) -> tuple[str, ...]:
        draw = random.Random(f"{seed} {word}")  # a string is the same seed everywhere
        found = []
        if 2 <= len(word) <= 6:
            found.append(_inserted(word, draw.randrange(1, len(word)), " "))
        if len(word) >= 3:
            found.append(_deleted(word, draw.randrange(1, len(word) - 1)))
        if len(word) >= 4:
            found.append(_swapped(word, draw.randrange(1, len(word) - 2)))
        places = [k for k, letter in enumerate(word) if letter in _KEYS or letter in _LOOKALIKES]
        if places:
            k = draw.choice(places)
            letters = _LOOKALIKES.get(word[k], "") or _KEYS[word[k]]
            found.append(_substituted(word, k, draw.choice(letters)))
        if synonyms is not None:
            found += synonyms(word)[:nearest]
        return tuple(found)

    return bugs


def word_bugs(*, seed: int = 0) -> Callable[[str], tuple[str, ...]]:
    """Return the four edits of Gao et al. 2018 (DeepWordBug, arXiv 1801.04354), §III-C: one each.

    They swap two neighbouring letters, replace a letter by a random one, delete a letter, and
    insert a random letter. The paper applies one kind at a time and reports each; here all four are
    candidates and the queries decide, as in later re-implementations.
    """

    def bugs(word: str) -> tuple[str, ...]:
        draw = random.Random(f"{seed} {word}")
        letters = string.ascii_lowercase
        found = [_inserted(word, draw.randrange(len(word) + 1), draw.choice(letters))]
        if len(word) >= 2:
            found.append(_swapped(word, draw.randrange(len(word) - 1)))
            found.append(_substituted(word, draw.randrange(len(word)), draw.choice(letters)))
            found.append(_deleted(word, draw.randrange(len(word))))
        return tuple(found)

    return bugs


def _inserted(word: str, k: int, letter: str) -> str:
    return word[:k] + letter + word[k:]


def _deleted(word: str, k: int) -> str:
    return word[:k] + word[k + 1 :]


def _swapped(word: str, k: int) -> str:
    return word[:k] + word[k + 1] + word[k] + word[k + 2 :]


def _substituted(word: str, k: int, letter: str) -> str:
    return word[:k] + letter + word[k + 1 :]
