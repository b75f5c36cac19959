"""Regular English endings: "movies" from "movie", and "film" from "films"."""

from __future__ import annotations

_VOWELS = "aeiou"

# synonyms of these are never inflected by rule: readers would notice "maked"
_IRREGULAR = """
arise awake be bear beat become begin bend bet bid bind bite bleed blow break breed bring build
buy catch choose cling come cost creep cut deal dig do draw drink drive eat fall feed feel fight
find flee fling fly forbid forget forgive freeze get give go grow hang have hear hide hit hold
hurt keep know lay lead leave lend let lie lose make mean meet overcome pay put quit read ride
ring rise run say see seek sell send set shake shed shine shoot show shrink shut sing sink sit
sleep slide speak speed spend spin spread spring stand steal stick sting strike strive swear
sweep swim swing take teach tear tell think throw understand undertake upset wake wear weave weep
win wind withdraw withstand write
child foot goose half knife leaf life loaf man mouse ox person series sheep shelf species thief
tooth wife wolf woman
"""
IRREGULAR = frozenset(_IRREGULAR.split())

#: ending -> parts of speech of the words that can have it
ENDINGS = {"s": ("noun", "verb"), "ed": ("verb",), "ing": ("verb",)}


def stems(word: str) -> list[tuple[str, str]]:
    """Return the (stem, ending) pairs from which the word may be built, most likely first.

    Only the letters are considered: "stopped" gives stopp, stop and stoppe; a lexicon decides which
    of them is a word.
    """
    found: list[tuple[str, str]] = []
    if word.endswith("ies") and len(word) > 4:
        found.append((word[:-3] + "y", "s"))
    if word.endswith("es") and len(word) > 3:
        found += [(word[:-1], "s"), (word[:-2], "s")]
    elif word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        found.append((word[:-1], "s"))
    if word.endswith("ied") and len(word) > 4:
        found.append((word[:-3] + "y", "ed"))
    for ending in ("ed", "ing"):
        stem = word[: -len(ending)]
        if word.endswith(ending) and len(stem) > 2:
            found += [(stem, ending), (stem + "e", ending)]
            if stem[-1] == stem[-2]:
                found.insert(-1, (stem[:-1], ending))
    return found


def inflected(stem: str, ending: str) -> str | None:
    """Return the regular form of a single word; None where the word is known to be irregular."""
    if stem in IRREGULAR and not (ending == "ing" or (ending == "s" and stem not in _NOUNS)):
        return None
    if ending == "s":
        if stem.endswith("y") and stem[-2:-1] not in _VOWELS:
            return stem[:-1] + "ies"
        return stem + ("es" if stem.endswith(("s", "x", "z", "ch", "sh")) else "s")
    if ending == "ed" and stem.endswith("y") and stem[-2:-1] not in _VOWELS:
        return stem[:-1] + "ied"
    if stem.endswith("e") and not stem.endswith(("ee", "ye", "oe")):
        return stem[:-1] + ending
    if _doubles(stem):
        return stem + stem[-1] + ending
    return stem + ending


_NOUNS = frozenset(_IRREGULAR[_IRREGULAR.index("child") :].split())


def _doubles(stem: str) -> bool:
    """Return whether the last consonant doubles: one syllable, one vowel before one consonant."""
    if len(stem) < 3 or stem[-1] in _VOWELS + "wxy":
        return False
    syllables = sum(
        letter in _VOWELS and (k == 0 or stem[k - 1] not in _VOWELS)
        for k, letter in enumerate(stem)
    )
    return syllables == 1 and stem[-2] in _VOWELS and stem[-3] not in _VOWELS
