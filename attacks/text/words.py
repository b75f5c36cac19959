"""Split a text into words and the gaps between them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

# letters and digits, with apostrophes and hyphens inside: "don't", "well-made", "3d"
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")


@dataclass(frozen=True)
class Words:
    """The n words of a text and the n + 1 gaps around them; gaps hold spaces and punctuation.

    The slots keep their positions under every edit: a word may be replaced by nothing or by two
    words, and the i-th slot of the result still belongs to the i-th word of the original.
    """

    words: tuple[str, ...]
    gaps: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.gaps) != len(self.words) + 1:
            raise ValueError(
                f"{len(self.words)} words need {len(self.words) + 1} gaps, got {len(self.gaps)}"
            )

    def __len__(self) -> int:
        return len(self.words)

    @property
    def text(self) -> str:
        """Return the text; directly after `split`, it is exactly the text that was split."""
        parts = [self.gaps[0]]
        for word, gap in zip(self.words, self.gaps[1:], strict=True):
            parts += (word, gap)
        return "".join(parts)

    def replaced(self, i: int, word: str) -> Words:
        """Return these words with `word` in the i-th slot."""
        return replace(self, words=(*self.words[:i], word, *self.words[i + 1 :]))

    def without(self, i: int) -> str:
        """Return the text without the i-th word and without one of the two spaces around it."""
        before, after = self.gaps[i], self.gaps[i + 1]
        if before.endswith(" ") and after.startswith(" "):
            after = after[1:]
        gaps = (*self.gaps[:i], before + after, *self.gaps[i + 2 :])
        return Words((*self.words[:i], *self.words[i + 1 :]), gaps).text

    def part(self, start: int, stop: int) -> str:
        """Return the text of the words start, …, stop − 1 with the gaps between them."""
        if start >= stop:
            return ""
        return Words(self.words[start:stop], ("", *self.gaps[start + 1 : stop], "")).text

    def changed_from(self, original: Words) -> tuple[int, ...]:
        """Return the slots whose word differs from that in `original`."""
        pairs = zip(original.words, self.words, strict=True)
        return tuple(i for i, (before, after) in enumerate(pairs) if before != after)


def split(text: str) -> Words:
    """Split a text into words; `split(text).text == text` for every string."""
    words, gaps, end = [], [], 0
    for match in _WORD.finditer(text):
        gaps.append(text[end : match.start()])
        words.append(match.group())
        end = match.end()
    return Words(tuple(words), (*gaps, text[end:]))


def like(word: str, replacement: str) -> str:
    """Return the replacement in the case of the word: GOOD → FINE, Good → Fine, good → fine."""
    if len(word) > 1 and word.isupper():
        return replacement.upper()
    return replacement[:1].upper() + replacement[1:] if word[:1].isupper() else replacement
