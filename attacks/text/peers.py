"""Run recipes of the TextAttack library in the way our attacks are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attacks.text.attack import check_texts
from attacks.text.diff import word_diff
from attacks.text.result import Classify, Status, TextResult, logits_for
from attacks.text.words import split


class _Counting:
    """A model wrapper for TextAttack: it takes lists of texts and returns probabilities."""

    def __init__(self, classify: Classify) -> None:
        self.model = classify  # TextAttack reads the class of this attribute
        self.asked = 0

    def __call__(self, texts: Sequence[str], **_: Any) -> Tensor:
        self.asked += len(texts)
        with torch.no_grad():
            return logits_for(self.model, list(texts)).double().softmax(1).cpu()


@dataclass(frozen=True)
class TextAttackRecipe:
    """A recipe class of TextAttack, which attacks one sentence after the other."""

    recipe: Any
    queries: int | None = None

    def __call__(
        self, classify: Classify, texts: Sequence[str], labels: Sequence[int] | Tensor
    ) -> list[TextResult]:
        """Attack every text; only queries that reached `classify` count, not answers of its
        cache."""
        wrapper = _Counting(classify)
        attack = self.recipe.build(wrapper)
        if self.queries is not None:
            attack.goal_function.query_budget = self.queries
        results = []
        for text, label in zip(texts, check_texts(texts, labels), strict=True):
            attack.goal_function.clear_cache()  # else earlier queries would cost nothing
            wrapper.asked = 0
            found = attack.attack(text, label)
            status = _status(type(found).__name__)
            after = found.perturbed_result.attacked_text.text if status == "success" else text
            words = split(text)
            results.append(
                TextResult(
                    text=text,
                    label=label,
                    adversarial=after,
                    status=status,
                    queries=wrapper.asked,
                    words=len(words),
                    changed=_changed(text, after),
                )
            )
        return results


def from_textattack(recipe: str, *, queries: int | None = None) -> TextAttackRecipe:
    """Return a recipe of TextAttack by its class name: ``from_textattack("TextFoolerJin2019")``.

    The recipe downloads the word vectors and sentence encoders that it needs at the first call,
    unless they are already on this machine.

    Args:
        queries: largest number of queries for one sentence; None for the limit of the recipe.

    Raises:
        ImportError: TextAttack is not installed.
        ValueError: the recipe is unknown.
    """
    try:
        from textattack import attack_recipes
    except ImportError as error:
        raise ImportError(
            f"from_textattack needs TextAttack ({error}): python -m pip install textattack"
        ) from error
    cls = getattr(attack_recipes, recipe, None)
    if not hasattr(cls, "build"):
        known = sorted(n for n, c in vars(attack_recipes).items() if hasattr(c, "build"))
        raise ValueError(f"recipe {recipe!r} is not known; choose one of {', '.join(known)}")
    return TextAttackRecipe(cls, queries)


def _status(result: str) -> Status:
    """Return the status of a TextAttack result class; only three classes are supported."""
    known: dict[str, Status] = {
        "SuccessfulAttackResult": "success",
        "FailedAttackResult": "failed",
        "SkippedAttackResult": "skipped",
    }
    if result not in known:
        raise ValueError(
            f"TextAttack returned {result}; only untargeted classification recipes can be used"
        )
    return known[result]


def _changed(before: str, after: str) -> int:
    """Return the number of words of the first text that were changed."""
    steps = word_diff(before, after)
    return sum(len(split(step.word)) or 1 for step in steps if step.kind != "same")
