"""Compare two texts word by word."""

from __future__ import annotations

from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Literal, NamedTuple

from attacks.text.words import split


class Diff(NamedTuple):
    """One step from a text to another.

    Attributes:
        kind: "same", "replace", "insert" or "delete".
        word: word of the first text; "" for an insertion.
        replacement: word of the second text; "" for a deletion, and `word` itself for "same".
    """

    kind: Literal["same", "replace", "insert", "delete"]
    word: str
    replacement: str


def word_diff(before: str, after: str) -> list[Diff]:
    """Return the words of both texts, in order, with their changes.

    Gaps are not compared. In a sequence of changed words, words at the same position are paired.
    Where one word became several, or several became one, they are joined by a space in one step.
    """
    a, b = split(before).words, split(after).words
    steps = []
    for tag, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        old, new = a[i:j], b[k:m]
        if tag == "equal":
            steps += [Diff("same", word, word) for word in old]
        elif tag == "replace" and len(old) != len(new):
            steps.append(Diff("replace", " ".join(old), " ".join(new)))
        else:
            for x, y in zip_longest(old, new, fillvalue=""):
                kind: Literal["replace", "insert", "delete"] = (
                    "insert" if not x else "delete" if not y else "replace"
                )
                steps.append(Diff(kind, x, y))
    return steps
