"""The greedy search on classifiers that can be solved by hand or by brute force."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from text_models import BagOfWords, same_for_all
from torch import Tensor

from attacks.text import (
    ByWord,
    Lexicon,
    TextAttack,
    by_context,
    by_deletion,
    by_saliency,
    by_unknown,
    deep_word_bug,
    is_stop_word,
    pwws,
    recheck,
    same_part_of_speech,
    share_changed,
    split,
    stop_words_kept,
    summarise,
    text_bugger,
    text_fooler,
    worst_case,
)

RANKINGS = {
    "deletion": by_deletion,
    "unknown": by_unknown(),
    "context": by_context(),
    "saliency": by_saliency(),
}
SYNONYMS = {"good": ("fine", "decent"), "great": ("big", "fair"), "film": ("movie",)}


def attack(ranking: str = "deletion", **options: object) -> TextAttack:
    candidates = ByWord(lambda word: SYNONYMS.get(word, ()))
    return TextAttack("test", RANKINGS[ranking], candidates, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("ranking", RANKINGS)
def test_the_one_substitution_that_flips_is_found(ranking: str) -> None:
    classify = BagOfWords({"good": 1.0, "fine": 0.9, "decent": -1.5, "great": 1.0, "fair": 0.8})
    [result] = attack(ranking)(classify, ["A good and great film."], [1])
    assert result.status == "success"
    assert result.adversarial == "A decent and great film."
    assert (result.changed, result.words) == (1, 5)
    assert result.share_changed == 0.2
    assert result.queries == classify.asked


def test_queries_worked_out_by_hand() -> None:
    # 1 clean, 3 deletions, 2 candidates for "good" (the most important), then it has flipped
    classify = BagOfWords({"good": 2.0, "great": 1.0, "decent": -3.0})
    [result] = attack()(classify, ["good great film"], [1])
    assert (result.status, result.queries) == ("success", 6)
    # PWWS: 1 clean, 3 unknown, 5 candidates; the flip is among those and is not asked again
    [result] = attack("saliency")(classify, ["good great film"], [1])
    assert (result.status, result.queries) == ("success", 9)
    # misclassified from the start
    [result] = attack()(classify, ["good great film"], [0])
    assert (result.status, result.queries, result.adversarial) == ("skipped", 1, "good great film")
    # no word has a candidate
    [result] = attack()(classify, ["good-great"], [0])
    assert (result.status, result.queries) == ("failed", 1)


WEIGHTS = st.fixed_dictionaries(
    {word: st.integers(-8, 8).map(lambda k: k / 2) for word in
     ("good", "fine", "decent", "great", "big", "fair", "film", "movie")}
)  # fmt: skip


@given(WEIGHTS, st.lists(st.sampled_from(["good", "great", "film", "the"]), min_size=1, max_size=5))
@settings(deadline=None, max_examples=150)
def test_additive_classifiers_fall_exactly_when_brute_force_says_so(
    weights: dict[str, float], words: list[str]
) -> None:
    """Where the words add up, greedy is exact: each slot takes its lowest replacement."""
    classify = BagOfWords(weights, bias=0.25)
    text = " ".join(words)
    lowest = min(
        classify.score(" ".join(choice))
        for choice in itertools.product(*((w, *SYNONYMS.get(w, ())) for w in words))
    )
    if classify.score(text) <= 0:
        return
    for ranking in RANKINGS:
        [result] = attack(ranking)(classify, [text], [1])
        assert result.status == ("success" if lowest < 0 else "failed"), ranking
        if result.status == "success":
            assert classify.score(result.adversarial) < 0


@given(WEIGHTS, st.lists(st.sampled_from(["good", "great", "film"]), min_size=1, max_size=5))
@settings(deadline=None, max_examples=100)
def test_the_fewest_words_are_changed_where_each_word_has_one_synonym(
    weights: dict[str, float], words: list[str]
) -> None:
    """By saliency of the substitution itself, the largest drops come first: the minimum."""
    one = {word: others[:1] for word, others in SYNONYMS.items()}

    def by_drop(problem):  # type: ignore[no-untyped-def]
        steps = yield from by_saliency()(problem)
        drop = {i: weights[problem.words.words[i]] - weights[new] for i, (new,) in steps}
        return sorted(steps, key=lambda step: -drop[step[0]])

    classify = BagOfWords(weights, bias=0.25)
    greedy = TextAttack("test", by_drop, ByWord(lambda word: one.get(word, ())))
    [result] = greedy(classify, [" ".join(words)], [1])
    fewest = min(
        (
            sum(a != b for a, b in zip(words, choice, strict=True))
            for choice in itertools.product(*((w, *one[w]) for w in words))
            if classify.score(" ".join(choice)) < 0
        ),
        default=None,
    )
    if result.status == "success":
        assert result.changed == fewest
    elif result.status == "failed":
        assert fewest is None


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("budget", range(1, 14))
def test_the_budget_holds_to_the_query(ranking: str, budget: int) -> None:
    classify = BagOfWords({"good": 1.0, "great": 1.0, "film": 1.0, "movie": 0.5}, bias=5.0)
    [free] = attack(ranking)(classify, ["good great film"], [1])
    classify.asked = 0
    [result] = attack(ranking, queries=budget)(classify, ["good great film"], [1])
    assert result.queries == classify.asked == min(budget, free.queries)


@given(
    st.lists(
        st.lists(st.sampled_from(["good", "great", "film", "the", "Good", "dull"]), max_size=7).map(
            " ".join
        ),
        max_size=12,
    ),
    st.integers(1, 9),
    st.sampled_from(sorted(RANKINGS)),
    st.none() | st.integers(1, 12),
)
@settings(deadline=None, max_examples=80)
def test_neighbours_and_batch_size_change_nothing(
    texts: list[str], batch_size: int, ranking: str, budget: int | None
) -> None:
    weights = {"good": 1.0, "decent": -2.0, "great": 0.5, "fair": -0.25, "dull": -1.0}
    classify = BagOfWords(weights, bias=0.25)
    labels = [0 if "dull" in text else 1 for text in texts]
    together = attack(ranking, batch_size=batch_size, queries=budget)(classify, texts, labels)
    assert sum(r.queries for r in together) == classify.asked
    assert all(size <= batch_size for size in classify.batches)
    alone = [
        attack(ranking, batch_size=1, queries=budget)(classify, [text], [label])[0]
        for text, label in zip(texts, labels, strict=True)
    ]
    assert together == alone


def test_calls_are_full_batches_until_the_last_sentences() -> None:
    classify = BagOfWords({"good": 1.0, "great": 1.0}, bias=5.0)
    attack(batch_size=8)(classify, ["good great film"] * 40, [1] * 40)
    assert classify.batches[:5] == [8] * 5
    assert len(classify.batches) < classify.asked / 5


def test_stop_words_and_share_of_changes() -> None:
    def replace_all(word: str) -> tuple[str, ...]:
        return ("bad",)

    free = TextAttack("t", by_deletion, ByWord(replace_all))
    kept = TextAttack("t", by_deletion, ByWord(replace_all), constraints=(stop_words_kept,))
    half = TextAttack("t", by_deletion, ByWord(replace_all), constraints=(share_changed(0.5),))
    classify = BagOfWords({"bad": -1.0}, bias=2.5)
    text = "the very best of the films"
    assert free(classify, [text], [1])[0].changed == 3
    assert kept(classify, [text], [1])[0].status == "failed"  # only "best" and "films" are free
    assert half(classify, [text], [1])[0].changed == 3
    assert half(BagOfWords({"bad": -1.0}, bias=3.5), [text], [1])[0].status == "failed"


PRESETS = {
    "text_fooler": lambda: text_fooler(
        synonyms=LEXICON.synonyms,
        parts_of_speech=LEXICON.parts_of_speech,
        embed=same_for_all,
        min_similarity=0.5,
    ),
    "text_bugger": lambda: text_bugger(synonyms=LEXICON.synonyms, embed=same_for_all),
    "deep_word_bug": lambda: deep_word_bug(max_edits=3),
    "pwws": lambda: pwws(synonyms=LEXICON.synonyms),
}
LEXICON = Lexicon.of([("adjective", ["good", "fine"]), ("noun", ["film", "movie"])])


@given(
    st.lists(st.sampled_from(["good", "film", "the", "is", "Fine", "movie", "it's"]), max_size=9)
)
@settings(deadline=None, max_examples=60)
def test_presets_never_touch_a_stop_word_and_change_words_in_place(words: list[str]) -> None:
    text = " ".join(words)
    classify = BagOfWords({"good": 3.0, "film": 3.0, "fine": 3.0, "movie": 3.0}, bias=0.5)
    for name, preset in PRESETS.items():
        [result] = preset()(classify, [text], [1])
        assert preset()(classify, [text], [1]) == [result], name
        after = iter(split(result.adversarial).words)
        assert all(word in after for word in words if is_stop_word(word)), name  # in their order


def letters(texts: list[str]) -> Tensor:
    """An embedding by counts of letters."""
    return torch.tensor([[text.count(letter) + 0.01 for letter in "aeiodfglmv"] for text in texts])


@given(
    st.lists(st.sampled_from(["good", "film", "the", "Great", "dull"]), min_size=1, max_size=8),
    st.sampled_from(sorted(RANKINGS)),
    st.sampled_from([0.2, 0.5, 1.0]),
    st.sampled_from([-1.0, 0.9, 0.98]),
    st.integers(1, 40),
    st.data(),
)
@settings(deadline=None, max_examples=150)
def test_successes_keep_every_constraint(
    words: list[str],
    ranking: str,
    most: float,
    min_similarity: float,
    queries: int,
    data: st.DataObject,
) -> None:
    pool = ["fine", "movie", "big", "stop", "good", "film", "the"]
    table = {
        w: data.draw(st.lists(st.sampled_from(pool))) for w in ("good", "film", "the", "great")
    }
    parts = {"good": {"a"}, "fine": {"a", "n"}, "film": {"n", "v"}, "movie": {"n"}, "stop": {"v"}}

    def part_of(word: str) -> frozenset[str]:
        return frozenset(parts.get(word.lower(), ()))

    attack = TextAttack(
        "test",
        RANKINGS[ranking],
        ByWord(lambda word: table.get(word, ())),
        constraints=(stop_words_kept, share_changed(most), same_part_of_speech(part_of)),
        embed=letters,
        min_similarity=min_similarity,
        queries=queries,
    )
    text = " ".join(words)
    classify = BagOfWords({"good": 1.0, "film": 0.5, "great": 1.0, "the": 0.1}, bias=-0.35)
    [result] = attack(classify, [text], [1])
    assert result.queries == classify.asked <= queries
    if result.status != "success":
        assert result.adversarial == text
        return
    after = result.adversarial.split(" ")
    changed = [(a, b) for a, b in zip(words, after, strict=True) if a != b]
    assert result.changed == len(changed) <= max(1, int(most * len(words)))
    for a, b in changed:
        assert a != "the"
        assert b.lower() in table[a.lower()]
        assert not part_of(a) or not part_of(b) or part_of(a) & part_of(b)
    unit = torch.nn.functional.normalize(letters([text, result.adversarial]).double(), dim=1)
    assert float(unit[0] @ unit[1]) >= min_similarity - 1e-12
    assert classify.score(result.adversarial) <= 0


def test_the_closest_in_meaning_of_those_that_flip_is_taken() -> None:
    vectors = {"good": [1.0, 0.0], "fine": [0.6, 0.8], "decent": [0.8, 0.6]}

    def embed(texts: list[str]) -> Tensor:
        return torch.tensor([vectors[text] for text in texts])

    classify = BagOfWords({"good": 1.0, "fine": -9.0, "decent": -1.0})
    [near] = attack(embed=embed, min_similarity=0.5)(classify, ["good"], [1])
    assert near.adversarial == "decent"  # fine has the lower probability, but is further
    [strict] = attack(embed=embed, min_similarity=0.9)(classify, ["good"], [1])
    assert strict.status == "failed"
    assert strict.queries == 2  # clean and deletion; what is too far is not asked about


def test_deletion_adds_what_the_new_class_gains() -> None:
    """Eq. 2 of TextFooler on three classes, by hand."""

    def classify(texts: list[str]) -> Tensor:
        table = {
            "good film": [0.6, 0.3, 0.1],
            "film": [0.3, 0.6, 0.1],  # class turns: 0.3 + 0.3
            "good": [0.05, 0.475, 0.475],  # class turns: 0.55 + 0.175
            "fine film": [0.5, 0.4, 0.1],
            "decent film": [0.5, 0.4, 0.1],
            "good movie": [0.1, 0.8, 0.1],
        }
        return torch.tensor([table[text.strip()] for text in texts]).log()

    [result] = attack()(classify, ["good film"], [0])
    assert (result.adversarial, result.queries) == ("good movie", 4)


def test_summary_by_hand() -> None:
    classify = BagOfWords({"good": 1.0, "decent": -1.0, "dull": -1.0}, bias=0.25)
    results = attack()(classify, ["good one", "fair dull", "plain"], [1, 1, 1])
    s = summarise(results)
    assert [r.status for r in results] == ["success", "skipped", "failed"]
    assert s.clean_accuracy == 2 / 3
    assert s.accuracy_under_attack == 1 / 3
    assert (s.success_rate, s.mean_changed, s.n) == (0.5, 0.5, 3)
    assert s.mean_queries == (results[0].queries + 1) / 2
    assert math.isnan(summarise(results[1:2]).success_rate)
    with pytest.raises(ValueError, match="at least one result"):
        summarise([])


def test_worst_case_takes_any_success_with_the_fewest_changes() -> None:
    classify = BagOfWords({"good": 1.0, "decent": -1.0}, bias=0.25)
    texts, labels = ["good one", "plain"], [1, 1]
    runs = [attack(queries=1)(classify, texts, labels), attack()(classify, texts, labels)]
    worst = worst_case(runs)
    assert [r.status for r in worst] == ["success", "failed"]
    assert worst[0].queries == runs[0][0].queries + runs[1][0].queries
    with pytest.raises(ValueError, match="same texts and labels"):
        worst_case([runs[0], runs[1][:1]])


def test_recheck_turns_what_does_not_hold_into_failures() -> None:
    classify = BagOfWords({"good": 1.0, "decent": -1.0}, bias=0.25)
    results = attack()(classify, ["good one"], [1])
    assert recheck(classify, results) == results
    [withdrawn] = recheck(BagOfWords({}, bias=1.0), results)
    assert (withdrawn.status, withdrawn.adversarial, withdrawn.changed) == ("failed", "good one", 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": 0}, "queries=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"min_similarity": 2.0}, "a cosine"),
        ({"min_similarity": 0.5}, "needs embed"),
    ],
)
def test_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attack(**options)


def test_what_does_not_fit_is_refused() -> None:
    classify = BagOfWords({})
    with pytest.raises(ValueError, match="1 labels do not fit 2 texts"):
        attack()(classify, ["a", "b"], [1])
    with pytest.raises(ValueError, match="do not fit"):
        attack()(classify, "text", [1, 1, 1, 1])
    with pytest.raises(ValueError, match="label 2 must lie in 0, …, 1"):
        attack()(classify, ["a"], [2])
    with pytest.raises(ValueError, match=r"shape \(1, C\)"):
        attack()(lambda texts: torch.zeros(2, 2), ["a"], [0])
    with pytest.raises(ValueError, match="C ≥ 2"):
        attack()(lambda texts: torch.zeros(1, 1), ["a"], [0])
    for wrong in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="logits for 1 of 1"):
            attack()(lambda texts, wrong=wrong: torch.full((1, 2), wrong), ["a"], [0])  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"labels=\[0\.7\] must be whole numbers"):
        attack()(classify, ["a"], [0.7])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"it must return \(2, D\)"):
        attack(embed=lambda texts: torch.ones(len(texts) % 2, 3))(
            BagOfWords({"good": 1.0}), ["good"], [1]
        )


def test_no_text_no_query() -> None:
    assert attack()(BagOfWords({}), [], []) == []


def test_outputs_with_logits_inside_and_ruled_out_classes_are_taken() -> None:
    """As of transformers, and with a class at −∞ that changes nothing."""
    plain = BagOfWords({"good": 1.0})

    def boxed(texts: list[str]) -> object:
        z = plain(texts)
        return {"logits": torch.cat((z, torch.full((len(z), 1), -torch.inf)), 1)}

    texts, labels = ["a good film", "good"], [1, 1]
    assert attack()(boxed, texts, labels) == attack()(plain, texts, labels)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="in which there are no logits"):
        attack()(lambda texts: None, texts, labels)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("option", [{"queries": 1.5}, {"queries": 0}, {"batch_size": "8"}])
def test_options_of_another_type_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        attack(**option)
