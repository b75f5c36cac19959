"""Synonym smoothing against exact probabilities: every sample and every attack enumerated."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attacks.text import split
from robustprune.certify import (
    ABSTAIN,
    Certificate,
    ClassifiedTexts,
    certify_synonyms,
    synonym_certificates,
    synonym_groups,
)
from robustprune.certify.claims import Claims
from robustprune.certify.resample_words import SYNONYM_CHECKS
from robustprune.certify.synonyms import substitutes

VOCABULARY = ("a", "b", "c", "d", "e")
Sets = Mapping[str, Sequence[str]]


def classifier(answers: Mapping[tuple[str, ...], int]):  # type: ignore[no-untyped-def]
    """Any function at all of the words, as a table; class 0 where the table is silent."""

    def classify(texts: list[str]) -> Tensor:
        labels = [answers.get(split(text).words, 0) for text in texts]
        return torch.nn.functional.one_hot(torch.tensor(labels), 3).double()

    return classify


def exact(words: Sequence[str], sets: Sets, answers: Mapping[tuple[str, ...], int]) -> list[float]:
    """P(f(Z) = c) of the three classes, by enumeration."""
    support = list(itertools.product(*(dict.fromkeys([w, *sets.get(w, ())]) for w in words)))
    counts = [0, 0, 0]
    for z in support:
        counts[answers.get(z, 0)] += 1
    return [count / len(support) for count in counts]


SETS = st.dictionaries(
    st.sampled_from(VOCABULARY), st.lists(st.sampled_from(VOCABULARY), max_size=4), max_size=5
)
SENTENCE = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=3)


@given(SETS, SETS, SENTENCE, st.data())
@settings(deadline=None, max_examples=150)
def test_no_allowed_sentence_changes_the_class(
    noise: Sets, adversary: Sets, words: list[str], data: st.DataObject
) -> None:
    """Three classes decided by a random table; the whole neighbourhood is enumerated."""
    sentences = list(itertools.product(VOCABULARY, repeat=len(words)))
    rare = data.draw(st.lists(st.sampled_from(sentences), max_size=len(sentences) // 4 + 1))
    answers = {z: 1 + k % 2 for k, z in enumerate(rare)}
    result = certify_synonyms(
        classifier(answers),
        [" ".join(words)],
        lambda word: noise.get(word, ()),
        adversary=lambda word: adversary.get(word, ()),
        n=400,
        alpha=1e-9,  # so that a single wrong statement can't be chance
    )
    prediction = int(result.prediction)
    if prediction == ABSTAIN:
        assert int(result.substitutions) == -1
        return
    choices = [tuple(dict.fromkeys([w, *adversary.get(w, ())])) for w in words]
    assert int(result.open_slots) == sum(len(c) > 1 for c in choices)
    assert 0 <= int(result.substitutions) <= int(result.open_slots)
    for other in itertools.product(*choices):
        changed = sum(a != b for a, b in zip(words, other, strict=True))
        if changed <= int(result.substitutions):
            p = exact(other, noise, answers)
            assert p[prediction] > 0.5


def test_the_bound_is_met_with_equality() -> None:
    """P(a) = {a, b, c, d}, P(e) = {e, b, c, d}: o = 3/4, and f can turn on what they don't share.

    p_A(x) = 1 falls to 3/4 at x' = e for the worst f, so that one substitution is certified; with
    f wrong on b too p_A is 3/4, the bound is 1/2 and certifies nothing, and p_A(x') = 1/2 indeed.
    """
    noise = {"a": ["b", "c", "d"], "e": ["b", "c", "d"]}

    def run(answers: Mapping[tuple[str, ...], int]):  # type: ignore[no-untyped-def]
        return certify_synonyms(
            classifier(answers),
            ["a"],
            lambda word: noise.get(word, ()),
            adversary=lambda word: ["e"] if word == "a" else [],
            n=4000,
        )

    sure = run({("e",): 1})
    assert exact(["e"], noise, {("e",): 1})[0] == 0.75
    assert (int(sure.prediction), int(sure.substitutions), int(sure.open_slots)) == (0, 1, 1)
    unsure = run({("e",): 1, ("b",): 1})
    assert exact(["e"], noise, {("e",): 1, ("b",): 1})[0] == 0.5
    assert (int(unsure.prediction), int(unsure.substitutions)) == (0, 0)


def test_equal_sets_lose_nothing() -> None:
    """Where all words of a set share it, g can't tell them apart: any number is certified."""
    group = {w: [v for v in "abc" if v != w] for w in "abc"}
    answers = {z: 1 for z in itertools.product("abc", repeat=4) if z.count("a") >= 2}
    result = certify_synonyms(
        classifier(answers), ["a b c a", "d d"], lambda word: group.get(word, ()), n=5000
    )
    p = exact(["a", "b", "c", "a"], group, answers)
    assert p[0] > 0.5
    assert result.substitutions.tolist() == [4, 0]
    assert result.open_slots.tolist() == [4, 0]
    assert result.prediction.tolist() == [0, 0]
    assert float(result.p_lower[0]) <= p[0] <= float(result.hits[0]) / 5000 + 0.05
    labels = torch.tensor([0, 1])
    assert result.certified_accuracy(labels) == 0.5
    assert result.certified_accuracy(labels, substitutions=0) == 0.5


@given(SETS, st.integers(1, 5))
def test_groups_part_the_vocabulary(sets: Sets, most: int) -> None:
    groups = synonym_groups(VOCABULARY, lambda word: sets.get(word, ()), most=most)
    for word in VOCABULARY:
        assert word in groups(word)
        assert 1 <= len(set(groups(word))) == len(groups(word)) <= most
        assert all(groups(other) == groups(word) for other in groups(word))
    assert groups("unheard-of") == ()


def test_groups_join_what_is_linked() -> None:
    links = {"a": ["b"], "b": ["c"], "d": ["e"]}
    groups = synonym_groups(VOCABULARY, lambda word: links.get(word, ()), most=3)
    assert groups("c") == ("a", "b", "c")
    assert groups("e") == ("d", "e")
    with pytest.raises(ValueError, match="most=0 must be at least 1"):
        synonym_groups(VOCABULARY, lambda word: (), most=0)


def test_case_of_the_word_is_kept_and_counts() -> None:
    seen: set[str] = set()

    def classify(texts: list[str]) -> Tensor:
        seen.update(texts)
        return torch.tensor([[1.0, 0.0]] * len(texts))

    certify_synonyms(
        classify, ["Good, GOOD!"], lambda word: {"good": ["fine"]}.get(word, ()), n=200
    )
    assert seen == {"Good, GOOD!", "Fine, GOOD!", "Good, FINE!", "Fine, FINE!"}


def test_samples_depend_on_seed_and_place_alone() -> None:
    answers = {("b", "b"): 1, ("c", "b"): 2}
    group = {"a": ["b", "c"], "b": ["a", "c"]}

    def run(batch_size: int, seed: int) -> list[int]:
        result = certify_synonyms(
            classifier(answers),
            ["a b", "b b", "a a"],
            lambda word: group.get(word, ()),
            n=300,
            batch_size=batch_size,
            seed=seed,
        )
        hits: list[int] = result.hits.tolist()
        return hits

    assert run(7, 0) == run(1000, 0)
    assert run(7, 0) != run(7, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n0": 0}, "n0=0 must be at least 1"),
        ({"alpha": 1.5}, r"alpha=1.5 must lie in \(0, 1\)"),
        ({"n": 5}, "use at least n=10"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
    ],
)
def test_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        certify_synonyms(classifier({}), ["a"], lambda word: (), **options)  # type: ignore[arg-type]


def test_sets_of_single_words_only() -> None:
    with pytest.raises(ValueError, match="'not bad', which is not a single word"):
        certify_synonyms(classifier({}), ["good"], lambda word: ["not bad"])
    with pytest.raises(ValueError, match=r"must answer 100 texts with \(100, C\)"):
        certify_synonyms(lambda texts: torch.zeros(3), ["a"], lambda word: (), batch_size=100)


# --- certificates of a file, and their verification -------------------------------------------

TEXTS = ("a e", "b e", "c d", "d")
GROUPS = {"a": ("b",), "c": ("d",)}


def sentences(answers: Mapping[tuple[str, ...], int]) -> ClassifiedTexts:
    return ClassifiedTexts(TEXTS, classifier(answers), lambda word: GROUPS.get(word, ()))


def certified(
    answers: Mapping[tuple[str, ...], int], labels: Sequence[int]
) -> tuple[list[Certificate], Tensor, Tensor]:
    x, y = torch.arange(float(len(TEXTS)))[:, None], torch.tensor(labels)
    found = synonym_certificates(
        sentences(answers), x, y, most=2, n0=20, n=200, alpha=0.001, seed=4
    )
    return found, x, y


def complaints(
    claims: Sequence[Certificate], x: Tensor, y: Tensor, answers: Mapping[tuple[str, ...], int]
) -> set[str]:
    checked = Claims(
        tuple(claims), torch.nn.Identity(), x, y, None, 9, 8, True, sentences=sentences(answers)
    )
    return {f.name for f in (check(checked) for check in SYNONYM_CHECKS) if not f.ok}


def test_a_radius_is_beyond_all_words_that_can_be_replaced_or_nothing() -> None:
    """Z of "c d" and of "d" is uniform over {c, d}: one vote in four, one in two for class 1."""
    answers = {("c", "d"): 1, ("c",): 1}
    found, x, y = certified(answers, [0, 1, 0, 0])
    assert [c.radius for c in found] == [2, 0, 3, 0]  # right, wrong, right, abstains
    assert [c.replaceable for c in found] == [1, 1, 2, 1]
    assert [c.covers_all_words for c in found] == [True, False, True, False]
    assert [c.outcome for c in found] == ["certified", "wrong", "certified", "abstained"]
    assert [c.prediction for c in found] == [0, 0, 0, None]
    assert {c.norm for c in found} == {"words"}
    assert complaints(found, x, y, answers) == set()


def test_false_claims_about_words_are_found() -> None:
    found, x, y = certified({}, [0, 0, 0, 0])
    follows, fresh, other = (
        f"synonyms: {name}"
        for name in (
            "radius follows from the hits",
            "fresh samples support the radius",
            "another sentence within the radius is answered alike",
        )
    )
    assert complaints(found, x, y, {}) == set()
    longer = [replace(found[0], radius=4.0), *found[1:]]
    assert complaints(longer, x, y, {}) == {follows}
    fewer = [replace(found[0], replaceable=0), *found[1:]]
    assert complaints(fewer, x, y, {}) == {"synonyms: words that can be replaced"}
    # half of what may stand for "a e" is answered otherwise: no majority, for nor against; then all
    assert complaints(found, x, y, {("b", "e"): 1}) == {fresh}
    assert complaints(found, x, y, {("b", "e"): 1, ("a", "e"): 1}) == {fresh, other}


def test_claims_about_words_need_words() -> None:
    found, x, y = certified({}, [0, 0, 0, 0])
    checked = Claims(tuple(found), torch.nn.Identity(), x, y, None, 9, 8, True)
    for check in SYNONYM_CHECKS:
        with pytest.raises(ValueError, match="no text"):
            check(checked)


# --- words whose set depends on their case ------------------------------------------------------

CASED = {"tvs": ("televisions",), "televisions": ("tvs",), "dvds": ("discs",), "discs": ("dvds",)}
MIXED = ("TVs DVDs", "discs televisions", "TVs discs")


def mixed_case(texts: Sequence[str]) -> Tensor:
    """Class 1 where a word is written as only the first sentence writes it."""
    labels = [int("TVs" in words or "DVDs" in words) for words in (t.split() for t in texts)]
    return torch.nn.functional.one_hot(torch.tensor(labels), 2).double()


def cased() -> ClassifiedTexts:
    return ClassifiedTexts(MIXED, mixed_case, lambda word: CASED.get(word, ()))


def share_of_class_1(text: str) -> float:
    """P(f(Z) = 1), every Z enumerated: a word is drawn from itself and its group in its case, which
    for TVs holds Tvs, too."""
    sets = {
        "TVs": ("TVs", "Tvs", "Televisions"),
        "DVDs": ("DVDs", "Dvds", "Discs"),
        "Televisions": ("Televisions", "Tvs"),
        "Discs": ("Discs", "Dvds"),
        "televisions": ("televisions", "tvs"),
        "discs": ("discs", "dvds"),
    }
    drawn = [" ".join(z) for z in itertools.product(*(sets[word] for word in text.split()))]
    return float(mixed_case(drawn).argmax(1).double().mean())


def test_a_radius_is_what_the_theorem_proves_where_sets_depend_on_case() -> None:
    """p_A of "TVs DVDs" is 5/9, and a replaced word may cost a third of the votes: R = 0."""
    x, y = torch.zeros(3, 2), torch.tensor([1, 0, 0])
    options = {"n0": 500, "n": 5000, "alpha": 1e-6, "seed": 0}
    found = synonym_certificates(cased(), x, y, most=2, **options)  # type: ignore[arg-type]
    proven = certify_synonyms(mixed_case, MIXED, cased().groups(2), **options)  # type: ignore[arg-type]
    assert [c.radius for c in found] == [
        (reach + 1) * (answer == label)
        for reach, answer, label in zip(
            proven.substitutions.tolist(), proven.prediction.tolist(), y.tolist(), strict=True
        )
    ]
    assert (found[0].radius, found[0].replaceable, found[0].covers_all_words) == (1, 2, False)
    assert (found[1].radius, found[1].covers_all_words) == (3, True)
    # a claim about any replaced word would be false
    assert share_of_class_1("TVs DVDs") == pytest.approx(5 / 9)
    assert share_of_class_1("Televisions DVDs") == pytest.approx(1 / 3)
    assert share_of_class_1("Televisions Discs") == 0.0
    for text in MIXED:
        drawn = substitutes(text, cased().groups(2), 4000, (5,))
        votes = float(mixed_case(list(drawn)).argmax(1).double().mean())
        assert votes == pytest.approx(share_of_class_1(text), abs=0.04)


def test_a_claim_about_more_words_than_hold_is_refuted() -> None:
    x, y = torch.zeros(3, 2), torch.tensor([1, 0, 0])
    found = synonym_certificates(cased(), x, y, most=2, n0=50, n=2000, alpha=0.001, seed=0)

    def names(claims: list[Certificate]) -> set[str]:
        checked = Claims(
            tuple(claims), torch.nn.Identity(), x, y, None, 9, 64, True, sentences=cased()
        )
        return {f.name for f in (check(checked) for check in SYNONYM_CHECKS) if not f.ok}

    assert names(found) == set()
    everything = {
        "synonyms: radius follows from the hits",
        "synonyms: fresh samples support the radius",
        "synonyms: another sentence within the radius is answered alike",
    }
    assert names([replace(found[0], radius=3), *found[1:]]) == everything
    # as files of schema 1 said it: beyond all words, however many
    assert names([replace(found[0], radius=3, replaceable=None), *found[1:]]) == everything
    old = [replace(found[1], radius=3, replaceable=None), replace(found[2], replaceable=None)]
    assert "synonyms: fresh samples support the radius" not in names([found[0], *old])


@given(st.sampled_from(MIXED), st.integers(0, 4))
def test_samples_without_end_are_samples(text: str, seed: int) -> None:
    groups = cased().groups(2)
    endless = list(itertools.islice(substitutes(text, groups, None, (seed,)), 600))
    assert set(endless) == set(substitutes(text, groups, 600, (seed, 1)))
