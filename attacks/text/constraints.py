"""Constraints on adversarial texts: functions of the original and the changed words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attacks.inputs import check_number
from attacks.text.stop_words import is_stop_word
from attacks.text.words import Words

#: (original, changed) -> whether `changed` is allowed; both have the same slots
TextConstraint = Callable[[Words, Words], bool]

#: word -> its parts of speech out of context; empty where the word isn't known
PartsOfSpeech = Callable[[str], frozenset[str]]

#: words of a sentence -> a tag for every word, in its context
Tagger = Callable[[Sequence[str]], Sequence[str]]


def stop_words_kept(original: Words, changed: Words) -> bool:
    """Allow a change if no stop word of the original is changed."""
    return not any(is_stop_word(original.words[i]) for i in changed.changed_from(original))


def words_of_length(least: int) -> TextConstraint:
    """Allow changes of words that have at least ``least`` characters."""

    def check(original: Words, changed: Words) -> bool:
        return all(len(original.words[i]) >= least for i in changed.changed_from(original))

    return check


def share_changed(most: float) -> TextConstraint:
    """Allow at most ⌊most · n⌋ changed words of n, but always one.

    Raises:
        ValueError: `most` is not in (0, 1].
    """
    check_number("in (0, 1]", most=most)

    def check(original: Words, changed: Words) -> bool:
        # 1e-9: 0.3 · 10 is 2.9999999999999996 in floating point
        allowed = max(1, int(most * len(original) + 1e-9))
        return len(changed.changed_from(original)) <= allowed

    return check


def same_part_of_speech(parts: PartsOfSpeech) -> TextConstraint:
    """Allow replacements that share a part of speech with their word, out of context.

    Words that `parts` does not know may be changed.
    """

    def check(original: Words, changed: Words) -> bool:
        for i in changed.changed_from(original):
            before, after = parts(original.words[i]), parts(changed.words[i])
            if before and after and not before & after:
                return False
        return True

    return check


def same_tags(tagger: Tagger) -> TextConstraint:
    """Allow replacements that get from the tagger, in context, the same tag as their word.

    Args:
        tagger: function of the words of a sentence that returns one tag each, such as a lambda
            around a spaCy or NLTK tagger.
    """

    def check(original: Words, changed: Words) -> bool:
        slots = changed.changed_from(original)
        if not slots:
            return True
        before, after = tagger(original.words), tagger(changed.words)
        return all(before[i] == after[i] for i in slots)

    return check


def edit_distance_within(most: int) -> TextConstraint:
    """Allow at most ``most`` single-character edits (Levenshtein distances, summed over words)."""

    def check(original: Words, changed: Words) -> bool:
        slots = changed.changed_from(original)
        return sum(levenshtein(original.words[i], changed.words[i]) for i in slots) <= most

    return check


def levenshtein(a: str, b: str) -> int:
    """Return the fewest character insertions, deletions and substitutions that turn a into b."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]
