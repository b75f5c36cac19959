"""The adapter to TextAttack, on a stand-in with the parts of its interface that we use."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from text_models import BagOfWords

from attacks.text import from_textattack


class SuccessfulAttackResult(SimpleNamespace):
    pass


class FailedAttackResult(SimpleNamespace):
    pass


class SkippedAttackResult(SimpleNamespace):
    pass


class MaximizedAttackResult(SimpleNamespace):
    pass


class SwapFirstGood:
    """Asks about the text and about the text with "good" → "dire"; cached, as theirs is."""

    name = "SuccessfulAttackResult"

    @classmethod
    def build(cls, wrapper: Any) -> Any:
        cache: dict[str, int] = {}

        def ask(text: str) -> int:
            if text not in cache:
                probabilities = wrapper([text])
                assert abs(float(probabilities.sum()) - 1) < 1e-12
                cache[text] = int(probabilities.argmax())
            return cache[text]

        goal = SimpleNamespace(clear_cache=cache.clear, query_budget=None)

        def attack(text: str, label: int) -> Any:
            result = SimpleNamespace(attacked_text=SimpleNamespace(text=text))
            if ask(text) != label:
                return SkippedAttackResult(perturbed_result=result)
            if goal.query_budget == 1:
                return FailedAttackResult(perturbed_result=result)
            other = text.replace("good", "dire", 1)
            if ask(other) != label:
                changed = SimpleNamespace(attacked_text=SimpleNamespace(text=other))
                return SuccessfulAttackResult(perturbed_result=changed)
            return FailedAttackResult(perturbed_result=result)

        return SimpleNamespace(goal_function=goal, attack=attack)


class Maximises:
    @staticmethod
    def build(wrapper: Any) -> Any:
        return SimpleNamespace(
            goal_function=SimpleNamespace(clear_cache=dict),
            attack=lambda text, label: MaximizedAttackResult(),
        )


@pytest.fixture
def _library(monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = ModuleType("textattack.attack_recipes")
    recipes.SwapFirstGood, recipes.Maximises = SwapFirstGood, Maximises  # type: ignore[attr-defined]
    library = ModuleType("textattack")
    library.attack_recipes = recipes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "textattack", library)
    monkeypatch.setitem(sys.modules, "textattack.attack_recipes", recipes)


@pytest.mark.usefixtures("_library")
def test_outcomes_and_queries_are_told_in_our_terms() -> None:
    classify = BagOfWords({"good": 1.0, "great": 2.0}, bias=-0.5)
    texts = ["a good film", "good great", "a good film", "plain"]
    results = from_textattack("SwapFirstGood")(classify, texts, [1, 1, 1, 1])
    assert [r.status for r in results] == ["success", "failed", "success", "skipped"]
    # the repeated text costs its two queries again: its cache is emptied between texts
    assert [r.queries for r in results] == [2, 2, 2, 1]
    assert classify.asked == 7
    assert (results[0].adversarial, results[0].changed, results[0].words) == ("a dire film", 1, 3)
    assert results[1].adversarial == "good great"
    limited = from_textattack("SwapFirstGood", queries=1)(classify, texts[:1], [1])
    assert limited[0].status == "failed"


@pytest.mark.usefixtures("_library")
def test_unknown_recipes_and_outcomes_are_refused() -> None:
    with pytest.raises(ValueError, match="'Nope' is not known; choose one of Maximises, Swap"):
        from_textattack("Nope")
    with pytest.raises(ValueError, match="returned MaximizedAttackResult; only untargeted"):
        from_textattack("Maximises")(BagOfWords({}), ["a"], [0])


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textattack", None)
    with pytest.raises(ImportError, match="python -m pip install textattack"):
        from_textattack("TextFoolerJin2019")
