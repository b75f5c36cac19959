"""What an adversarial text may not do: plain functions of the original and the changed words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attacks.inputs import check_number
from attacks.text.stop_words import is_stop_word
from attacks.text.words import Words

#: whether `changed` is an allowed version of `original` (same slots)
TextConstraint = Callable[[Words, Words], bool]

#: the word's parts of speech out of context; empty where the word isn't known
PartsOfSpeech = Callable[[str], frozenset[str]]

#: a tag for every word of a sentence, in its context
Tagger = Callable[[Sequence[str]], Sequence[str]]


def stop_words_kept(original: Words, changed: Words) -> bool:
    """No stop word of the original is touched."""
    return not any(is_stop_word(original.words[i]) for i in changed.changed_from(original))


def words_of_length(least: int) -> TextConstraint:
    """Only words of at least that many characters are changed."""

    def check(original: Words, changed: Words) -> bool:
        return all(len(original.words[i]) >= least for i in changed.changed_from(original))

    return check


def share_changed(most: float) -> TextConstraint:
    """At most ⌊most · n⌋ of the n words are changed, but one always may be.

    Raises:
        ValueError: `most` does not lie in (0, 1].
    """
    check_number("in (0, 1]", most=most)

    def check(original: Words, changed: Words) -> bool:
        # 1e-9: 0.3 · 10 is 2.9999999999999996 in floating point
        allowed = max(1, int(most * len(original) + 1e-9))
        return len(changed.changed_from(original)) <= allowed

    return check


def same_part_of_speech(parts: PartsOfSpeech) -> TextConstraint:
    """A changed word and its replacement share a part of speech out of context.

    Words that `parts` does not know pass: nothing is known against them.
    """

    def check(original: Words, changed: Words) -> bool:
        for i in changed.changed_from(original):
            before, after = parts(original.words[i]), parts(changed.words[i])
            if before and after and not before & after:
                return False
        return True

    return check


def same_tags(tagger: Tagger) -> TextConstraint:
    """The tagger gives every changed word the tag of the word that it replaces, in its context.

    Args:
        tagger: words of a sentence -> a tag each, such as a spaCy or NLTK tagger behind a lambda.
    """

    def check(original: Words, changed: Words) -> bool:
        slots = changed.changed_from(original)
        if not slots:
            return True
        before, after = tagger(original.words), tagger(changed.words)
        return all(before[i] == after[i] for i in slots)

    return check


def edit_distance_within(most: int) -> TextConstraint:
    """At most that many single-character edits in all (Levenshtein distance, summed over words)."""

    def check(original: Words, changed: Words) -> bool:
        slots = changed.changed_from(original)
        return sum(levenshtein(original.words[i], changed.words[i]) for i in slots) <= most

    return check


def levenshtein(a: str, b: str) -> int:
    """Fewest insertions, deletions and substitutions of a character that turn a into b."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]
