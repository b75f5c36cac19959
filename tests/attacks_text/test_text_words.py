"""Splitting and putting together again; case; differences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attacks.text import STOP_WORDS, Diff, Words, is_stop_word, split, word_diff
from attacks.text.words import like

# letters with and without case, digits, marks, spaces, apostrophes
TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=60) | st.text(
    alphabet="aB3 '’-_.,!\n\té", max_size=40
)


@given(TEXT)
def test_what_is_split_comes_back_letter_for_letter(text: str) -> None:
    words = split(text)
    assert words.text == text
    assert all(word and not word[0].isspace() for word in words.words)


@given(TEXT, st.data())
def test_a_replaced_word_keeps_all_slots_and_gaps(text: str, data: st.DataObject) -> None:
    words = split(text)
    if len(words) == 0:
        return
    i = data.draw(st.integers(0, len(words) - 1))
    changed = words.replaced(i, "two words")
    assert len(changed) == len(words)
    assert changed.changed_from(words) == (i,)
    assert changed.replaced(i, words.words[i]) == words


def test_words_are_letters_digits_and_what_is_inside_them() -> None:
    assert split("It's a well-made 3D film, isn't it?").words == (
        "It's", "a", "well-made", "3D", "film", "isn't", "it",
    )  # fmt: skip
    assert split("ca n't _wait_!").words == ("ca", "n't", "wait")
    assert split("").words == ()


def test_a_word_goes_with_one_of_its_spaces() -> None:
    words = split("not a good film .")
    assert words.without(2) == "not a film ."
    assert words.without(0) == " a good film ."
    assert split("one").without(0) == ""


def test_parts_keep_the_gaps_inside() -> None:
    words = split("« one, two three »")
    assert words.part(0, 2) == "one, two"
    assert words.part(1, 3) == "two three"
    assert words.part(2, 2) == ""


def test_gaps_must_fit() -> None:
    with pytest.raises(ValueError, match="1 words need 2 gaps, got 1"):
        Words(("a",), ("",))


@pytest.mark.parametrize(
    ("word", "expected"), [("good", "fine"), ("Good", "Fine"), ("GOOD", "FINE"), ("G", "Fine")]
)
def test_case_is_that_of_the_word(word: str, expected: str) -> None:
    assert like(word, "fine") == expected


def test_stop_words_whatever_their_case() -> None:
    assert is_stop_word("The")
    assert is_stop_word("Don’t")
    assert not is_stop_word("film")
    assert all(word == word.lower() for word in STOP_WORDS)


def test_differences_name_what_was_put_for_what() -> None:
    assert word_diff("A good film .", "A fine film !") == [
        Diff("same", "A", "A"),
        Diff("replace", "good", "fine"),
        Diff("same", "film", "film"),
    ]
    assert word_diff("a great film", "a gr eat film")[1] == Diff("replace", "great", "gr eat")
    assert word_diff("a b", "a")[1] == Diff("delete", "b", "")
    assert word_diff("a", "a b")[1] == Diff("insert", "", "b")


@given(TEXT, TEXT)
def test_differences_hold_both_texts(before: str, after: str) -> None:
    steps = word_diff(before, after)
    assert " ".join(s.word for s in steps if s.word).split(" ") == " ".join(
        split(before).words
    ).split(" ")
    assert " ".join(s.replacement for s in steps if s.replacement).split(" ") == " ".join(
        split(after).words
    ).split(" ")
