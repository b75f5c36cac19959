"""Recipes of the TextAttack library behind our calling convention."""

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
    """What TextAttack calls a model wrapper: lists of texts in, probabilities out."""

    def __init__(self, classify: Classify) -> None:
        self.model = classify  # TextAttack looks at its class
        self.asked = 0

    def __call__(self, texts: Sequence[str], **_: Any) -> Tensor:
        self.asked += len(texts)
        with torch.no_grad():
            return logits_for(self.model, list(texts)).double().softmax(1).cpu()


@dataclass(frozen=True)
class TextAttackRecipe:
    """A recipe class of TextAttack; one sentence after the other, as that library works."""

    recipe: Any
    queries: int | None = None

    def __call__(
        self, classify: Classify, texts: Sequence[str], labels: Sequence[int] | Tensor
    ) -> list[TextResult]:
        """Attack every text; queries are those that reached `classify`, without its cache."""
        wrapper = _Counting(classify)
        attack = self.recipe.build(wrapper)
        if self.queries is not None:
            attack.goal_function.query_budget = self.queries
        results = []
        for text, label in zip(texts, check_texts(texts, labels), strict=True):
            attack.goal_function.clear_cache()  # another text's queries would be free otherwise
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
    """A recipe of TextAttack by its class name: ``from_textattack("TextFoolerJin2019")``.

    The recipe downloads what it needs (word vectors, sentence encoders) the first time, unless the
    user has it already.

    Args:
        queries: most queries for a sentence; None for the recipe's own.

    Raises:
        ImportError: TextAttack is not installed.
        ValueError: there is no such recipe.
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
    """Of a TextAttack result class; anything else than these three is not an outcome we know."""
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
    """Words of the first text that did not stay."""
    steps = word_diff(before, after)
    return sum(len(split(step.word)) or 1 for step in steps if step.kind != "same")
