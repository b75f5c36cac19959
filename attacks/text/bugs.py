"""Misspellings that a reader hardly notices: the edits of TextBugger and of DeepWordBug."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence

# characters that look like another one
_LOOKALIKES = {
    "a": "@", "b": "6", "e": "3", "g": "9", "i": "1", "l": "1", "o": "0", "q": "9", "s": "5",
    "z": "2",
}  # fmt: skip

# what lies next to a key on an English keyboard
_KEYS = {
    "q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij",
    "i": "uok", "o": "ipl", "p": "ol", "a": "qsz", "s": "awdx", "d": "sefc", "f": "drgv",
    "g": "fthb", "h": "gyjn", "j": "hukm", "k": "jil", "l": "ko", "z": "ax", "x": "zsc",
    "c": "xdv", "v": "cfb", "b": "vgn", "n": "bhm", "m": "nj",
}  # fmt: skip


def text_bugs(
    synonyms: Callable[[str], Sequence[str]] | None = None, *, nearest: int = 5, seed: int = 0
) -> Callable[[str], tuple[str, ...]]:
    """The five bugs of Li et al. 2019 (TextBugger, arXiv 1812.05271), §III-C, one of each kind.

    A space inside the word (of at most six letters), a deletion and a swap of inner letters, a
    letter for one that looks alike or lies next to it on the keyboard, and the word for up to
    `nearest` others.  Words of fewer than three letters have none of the first three.

    Args:
        synonyms: word -> other words, nearest first; None leaves that bug out.
        seed: draws the places; the same word always gets the same bugs.
    """

    def bugs(word: str) -> tuple[str, ...]:
        draw = random.Random(f"{seed} {word}")  # a string is hashed the same on every machine
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
    """The four edits of Gao et al. 2018 (DeepWordBug, arXiv 1801.04354), §III-C, one of each kind.

    A swap of two neighbouring letters, a letter for a random one, a deletion, an insertion of a
    random letter.  The paper applies one kind at a time and reports each; here all four are
    candidates and the query decides, as in later re-implementations.
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
