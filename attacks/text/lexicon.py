"""Synonyms, antonyms and parts of speech from WordNet or from a lexicon of the caller."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

from attacks.text.inflect import ENDINGS, inflected, stems
from attacks.text.stop_words import is_stop_word
from attacks.text.words import split

_PARTS = {"1": "noun", "2": "verb", "3": "adjective", "4": "adverb"}
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Lexicon:
    """Sets of words that share a meaning; all words are in lower case.

    Attributes:
        senses: word -> its senses (part of speech, name), most common first.
        members: sense -> the words that have it, most common first.
        antonyms: word -> words with the opposite meaning; each pair is needed in one direction
            only.
    """

    senses: Mapping[str, tuple[tuple[str, str], ...]] = field(repr=False)
    members: Mapping[tuple[str, str], tuple[str, ...]] = field(repr=False)
    antonyms: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        sets: Iterable[tuple[str, Iterable[str]]],
        antonyms: Iterable[tuple[str, str]] = (),
    ) -> Lexicon:
        """Build a lexicon from (part of speech, words of one meaning) and pairs of opposites.

        ``Lexicon.of([("adjective", ["good", "fine"])], [("good", "bad")])``.
        """
        senses: dict[str, list[tuple[str, str]]] = {}
        members = {}
        for number, (part, words) in enumerate(sets):
            sense = (part, str(number))
            members[sense] = tuple(words)
            for word in members[sense]:
                senses.setdefault(word, []).append(sense)
        return cls({word: tuple(s) for word, s in senses.items()}, members, _both_ways(antonyms))

    def synonyms(self, word: str) -> tuple[str, ...]:
        """Return single words that share a sense with the word, sense by sense, without antonyms.

        A regularly inflected form has the senses of its stem, and its synonyms get the same ending:
        movies → films. Irregular forms have only the synonyms that are listed for them.
        """
        word = word.lower()
        found = [other for sense in self.senses.get(word, ()) for other in self.members[sense]]
        for stem, ending in stems(word):
            for sense in self.senses.get(stem, ()):
                if sense[0] in ENDINGS[ending]:
                    forms = [
                        inflected(o, ending)
                        for o in self.members[sense]
                        if _single(o) and o != stem
                    ]
                    found += [form for form in forms if form is not None]
        opposite = self.opposites(word)
        return tuple(
            other
            for other in dict.fromkeys(found)
            if other != word and _single(other) and other not in opposite
        )

    def opposites(self, word: str) -> frozenset[str]:
        """Return the antonyms of the word and of its possible stems."""
        word = word.lower()
        roots = [word, *(stem for stem, _ in stems(word))]
        return _NONE.union(*(self.antonyms.get(root, _NONE) for root in roots))

    def parts_of_speech(self, word: str) -> frozenset[str]:
        """Return the parts of speech of the word and of its stems; empty where none is known."""
        word = word.lower()
        own = {part for part, _ in self.senses.get(word, ())}
        for stem, ending in stems(word):
            own |= {part for part, _ in self.senses.get(stem, ()) if part in ENDINGS[ending]}
        return frozenset(own)


@cache
def wordnet() -> Lexicon:
    """Return WordNet's synonym sets and antonyms from the package oyemi (Fellbaum 1998).

    It has 145,014 words and phrases in 117,242 sets. The package has the MIT licence; WordNet
    itself has Princeton's licence, which allows any use. Its SQLite file is opened read-only;
    loading takes about a second and 100 MB, and the result is cached.

    Raises:
        ImportError: the package is not installed.
    """
    uri = f"{_database().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True)
    try:
        rows = connection.execute("SELECT word, code, priority FROM lexicon").fetchall()
        opposite = connection.execute("SELECT word, antonym FROM antonyms").fetchall()
    finally:
        connection.close()
    # the priority says how common the word is in a sense, plus 10,000 in some parts of WordNet
    rows.sort(key=lambda row: (-(row[2] % 10_000), row[0]))
    senses: dict[str, list[tuple[str, str]]] = {}
    members: dict[tuple[str, str], list[str]] = {}
    for word, code, _ in rows:
        # superclass-set-part-abstractness-valence; the last two belong to the word, not the set
        superclass, number, part, _, _ = code.split("-")
        sense = (_PARTS[part], f"{superclass}-{number}")
        senses.setdefault(word, []).append(sense)
        members.setdefault(sense, []).append(word)
    return Lexicon(
        {word: tuple(dict.fromkeys(s)) for word, s in senses.items()},
        {sense: tuple(dict.fromkeys(words)) for sense, words in members.items()},
        _both_ways(opposite),
    )


def content_synonyms(word: str) -> tuple[str, ...]:
    """Return WordNet's synonyms of a word, and none for a stop word, which attacks never change.

    Raises:
        ImportError: see ``wordnet``.
    """
    return () if is_stop_word(word) else wordnet().synonyms(word)


def _database() -> Path:
    try:
        files = metadata.files("oyemi") or []
    except metadata.PackageNotFoundError as error:
        raise ImportError(
            "WordNet comes with the package oyemi, which is missing: python -m pip install oyemi"
        ) from error
    for file in files:
        if file.name == "lexicon.db":
            return Path(str(file.locate())).resolve()
    raise ImportError("the installed oyemi holds no lexicon.db; python -m pip install 'oyemi>=3.2'")


def _both_ways(pairs: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for a, b in pairs:
        found.setdefault(a, set()).add(b)
        found.setdefault(b, set()).add(a)
    return {word: frozenset(words) for word, words in found.items()}


def _single(word: str) -> bool:
    """Return whether a word fits into one slot of a sentence."""
    return split(word).words == (word,)
