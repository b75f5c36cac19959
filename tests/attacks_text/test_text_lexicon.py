"""Synonyms, endings, neighbours, bugs, and WordNet where its package is installed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.text import (
    Lexicon,
    Neighbours,
    edit_distance_within,
    first_of,
    same_part_of_speech,
    same_tags,
    share_changed,
    split,
    text_bugs,
    token_vectors,
    word_bugs,
    wordnet,
)
from attacks.text.constraints import levenshtein
from attacks.text.inflect import inflected, stems

LEXICON = Lexicon.of(
    [
        ("adjective", ["good", "fine", "bad", "not bad"]),
        ("noun", ["film", "movie", "knife"]),
        ("verb", ["stop", "halt", "make", "try"]),
    ],
    [("good", "bad")],
)


def test_synonyms_share_a_set_and_are_no_antonyms() -> None:
    assert LEXICON.synonyms("good") == ("fine",)
    assert LEXICON.synonyms("Bad") == ("fine",)  # antonyms hold both ways
    assert LEXICON.synonyms("fine") == ("good", "bad")
    assert LEXICON.synonyms("unheard-of") == ()


def test_endings_go_over_to_the_synonym() -> None:
    assert LEXICON.synonyms("movies") == ("films",)  # knives is irregular
    assert LEXICON.synonyms("stopped") == ("halted", "tried")
    assert LEXICON.synonyms("stopping") == ("halting", "making", "trying")
    assert LEXICON.synonyms("goods") == ()  # adjectives take no ending
    assert LEXICON.parts_of_speech("films") == {"noun"}
    assert LEXICON.parts_of_speech("fine") == {"adjective"}
    assert LEXICON.parts_of_speech("unheard-of") == frozenset()


@pytest.mark.parametrize(
    ("stem", "ending", "form"),
    [
        ("film", "s", "films"), ("box", "s", "boxes"), ("city", "s", "cities"),
        ("play", "s", "plays"), ("stop", "ed", "stopped"), ("play", "ed", "played"),
        ("cry", "ed", "cried"), ("love", "ed", "loved"), ("love", "ing", "loving"),
        ("see", "ing", "seeing"), ("visit", "ing", "visiting"), ("cry", "ing", "crying"),
        ("make", "s", "makes"), ("make", "ing", "making"), ("fix", "ed", "fixed"),
    ],
)  # fmt: skip
def test_regular_forms(stem: str, ending: str, form: str) -> None:
    assert inflected(stem, ending) == form
    assert (stem, ending) in stems(form)


@pytest.mark.parametrize(("stem", "ending"), [("make", "ed"), ("knife", "s"), ("go", "ed")])
def test_irregular_forms_are_not_made_up(stem: str, ending: str) -> None:
    assert inflected(stem, ending) is None


def test_neighbours_by_cosine_without_antonyms() -> None:
    words = ["good", "bad", "fine", "far", "good"]
    vectors = torch.tensor([[1.0, 0.0], [2.0, 0.1], [1.0, 0.2], [0.0, 1.0], [0.0, 1.0]])
    near = Neighbours(words, vectors, min_cosine=0.7)
    assert near("Good") == ("bad", "fine")
    assert near("unheard-of") == ()
    assert Neighbours(words, vectors, lexicon=LEXICON)("good") == ("fine",)
    assert Neighbours(words, vectors, count=1)("good") == ("bad",)
    assert Neighbours(words, vectors, min_cosine=-1.0)("good") == ("bad", "fine", "far")
    assert first_of(near, LEXICON.synonyms, lambda word: ["new"])("good") == ("bad", "fine", "new")
    with pytest.raises(ValueError, match=r"4 words need vectors of shape \(4, D\)"):
        Neighbours(words[:4], vectors)
    with pytest.raises(ValueError, match="count=0 must be at least 1"):
        Neighbours(words, vectors, count=0)


class Tokens:
    """The part of a tokenizer and of a model that token_vectors reads."""

    def get_vocab(self) -> dict[str, int]:
        return {"[PAD]": 0, "film": 2, "a": 1, "##s": 3, "good": 4, "é": 5, "7up": 6}

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return torch.nn.Embedding.from_pretrained(torch.arange(7.0)[:, None])


def test_whole_words_of_a_vocabulary_with_their_rows() -> None:
    words, vectors = token_vectors(Tokens(), Tokens())
    assert words == ["film", "good"]
    assert vectors.tolist() == [[2.0], [4.0]]


WORD = st.text(alphabet=st.characters(categories=["Ll"]), min_size=1, max_size=10)


@given(WORD, st.integers(0, 9))
def test_bugs_are_one_edit_or_one_swap_and_the_same_each_time(word: str, seed: int) -> None:
    for bugs in (text_bugs(seed=seed), word_bugs(seed=seed)):
        found = bugs(word)
        assert found == bugs(word)
        for bug in found:
            swapped = sorted(bug) == sorted(word) and len(bug) == len(word)
            assert levenshtein(word, bug) <= (2 if swapped else 1)
            assert bug.strip() == bug


def test_bugs_of_textbugger_on_one_word() -> None:
    found = text_bugs(lambda word: ["fine", "decent", "nice"], nearest=2)("good")
    assert found[-2:] == ("fine", "decent")
    assert [len(bug) for bug in found[:4]] == [5, 3, 4, 4]
    assert found[0].replace(" ", "") == "good"
    assert found[1][0] + found[1][-1] == found[2][0] + found[2][-1] == "gd"
    assert " " not in "".join(text_bugs()("thrilling"))  # too long for a space to pass unnoticed


def test_levenshtein_by_hand() -> None:
    assert levenshtein("kitten", "sitting") == 3
    assert levenshtein("", "abc") == levenshtein("abc", "") == 3


def test_constraints_on_two_words() -> None:
    before = split("the good film")
    noun, verb = before.replaced(2, "movie"), before.replaced(2, "stop")
    same = same_part_of_speech(LEXICON.parts_of_speech)
    assert same(before, noun)
    assert not same(before, verb)
    assert same(before, before.replaced(2, "unheard-of"))
    tags = same_tags(lambda words: ["X" if word.endswith("e") else "Y" for word in words])
    assert not tags(before, noun)
    assert tags(before, verb)
    assert tags(before, before)
    assert edit_distance_within(4)(before, before.replaced(1, "gold").replaced(2, "flm"))
    assert not edit_distance_within(1)(before, before.replaced(1, "gold").replaced(2, "flm"))
    third = share_changed(1 / 3)
    assert third(before, noun)
    assert not third(before, noun.replaced(1, "fine"))
    assert share_changed(0.01)(before, noun)
    ten = split("a b c d e f g h i j")
    three = ten.replaced(0, "x").replaced(1, "x").replaced(2, "x")
    assert share_changed(0.3)(ten, three)
    with pytest.raises(ValueError, match=r"most=0 must be a number in \(0, 1\]"):
        share_changed(0)


def test_wordnet() -> None:
    pytest.importorskip("Oyemi")
    wn = wordnet()
    assert len(wn.senses) == 145_014
    assert {"film", "picture"} <= set(wn.synonyms("movie"))
    assert {"films", "pictures"} <= set(wn.synonyms("movies"))
    assert wn.synonyms("terrible")[0] == "awful"
    assert "bad" in wn.opposites("good")
    assert "good" in wn.opposites("bad")
    assert wn.parts_of_speech("happily") == {"adverb"}
    # every synonym has a part of speech in common with the word, and is one word
    for word in ("movies", "great", "running", "boring"):
        own = wn.parts_of_speech(word)
        assert all(wn.parts_of_speech(other) & own for other in wn.synonyms(word))
        assert all(split(other).words == (other,) for other in wn.synonyms(word))
    assert wordnet() is wn
