"""What an attack on texts found, and what it says of the classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from attacks.inputs import check_finite
from attacks.network import pick_logits
from attacks.text.diff import Diff, word_diff

#: texts -> logits (n, C), finite
Classify = Callable[[list[str]], Tensor]

Status = Literal["success", "failed", "skipped"]


@torch.no_grad()
def logits_for(classify: Classify, texts: list[str]) -> Tensor:
    """The classifier's logits (n, C), checked: found in what it returned, finite but for classes
    that it rules out by −∞.

    Raises:
        ValueError: another shape or no logits at all.
        NotFinite: NaN, of which an attack can't tell success.
    """
    logits = pick_logits(classify(texts)).detach()
    if logits.dim() != 2 or len(logits) != len(texts) or logits.shape[1] < 2:
        raise ValueError(
            f"classify answered {tuple(logits.shape)} for {len(texts)} texts; it must return "
            f"logits of shape ({len(texts)}, C) with C ≥ 2"
        )
    check_finite(logits)
    return logits


@dataclass(frozen=True)
class TextResult:
    """One text under attack.

    Attributes:
        text: the original.
        label: its true class.
        adversarial: the changed text; the original itself unless status is "success".
        status: "skipped" where the original is misclassified already, which costs one query.
        queries: texts that the classifier was asked about.
        words: of the original.
        changed: words of the original that were replaced; 0 unless status is "success".
    """

    text: str
    label: int
    adversarial: str
    status: Status
    queries: int
    words: int
    changed: int

    @property
    def share_changed(self) -> float:
        """Changed words over words."""
        return self.changed / max(self.words, 1)

    @property
    def diff(self) -> list[Diff]:
        """Word-level difference between the original and the adversarial text."""
        return word_diff(self.text, self.adversarial)


@dataclass(frozen=True)
class TextSummary:
    """Shares lie in [0, 1]; NaN where there is nothing to take the mean of.

    Attributes:
        n: texts.
        clean_accuracy: share classified correctly before the attack.
        accuracy_under_attack: share that is still classified correctly after it.
        success_rate: successes among the attacked, which are the correctly classified ones.
        mean_queries: per attacked text.
        mean_changed: mean share of words changed, over the successes.
    """

    n: int
    clean_accuracy: float
    accuracy_under_attack: float
    success_rate: float
    mean_queries: float
    mean_changed: float


def summarise(results: Sequence[TextResult]) -> TextSummary:
    """The figures by which attacks on text are reported.

    Raises:
        ValueError: there is no result.
    """
    if not results:
        raise ValueError("summarise needs at least one result, got none")
    attacked = [r for r in results if r.status != "skipped"]
    successes = [r for r in attacked if r.status == "success"]
    return TextSummary(
        n=len(results),
        clean_accuracy=len(attacked) / len(results),
        accuracy_under_attack=(len(attacked) - len(successes)) / len(results),
        success_rate=_mean([float(r.status == "success") for r in attacked]),
        mean_queries=_mean([float(r.queries) for r in attacked]),
        mean_changed=_mean([r.share_changed for r in successes]),
    )


def worst_case(runs: Sequence[Sequence[TextResult]]) -> list[TextResult]:
    """Per text the outcome of the attack that did best: a success with the fewest changes.

    Queries are those of all the attacks together.

    Raises:
        ValueError: no attack, or attacks on different texts.
    """
    if not runs:
        raise ValueError("worst_case needs the results of at least one attack, got none")
    texts = [[(r.text, r.label) for r in run] for run in runs]
    if any(other != texts[0] for other in texts[1:]):
        raise ValueError("worst_case needs attacks on the same texts and labels in the same order")
    worst = []
    for results in zip(*runs, strict=True):
        best = min(results, key=lambda r: (r.status != "success", r.changed, r.status == "skipped"))
        worst.append(replace(best, queries=sum(r.queries for r in results)))
    return worst


def recheck(
    classify: Classify, results: Sequence[TextResult], *, batch_size: int = 64
) -> list[TextResult]:
    """Ask the classifier afresh about every success and turn those that do not hold into failures.

    An answer may depend on what else is in the batch by its last digits.  The queries of this
    check are not counted.
    """
    claimed = [k for k, result in enumerate(results) if result.status == "success"]
    checked = list(results)
    for start in range(0, len(claimed), batch_size):
        part = claimed[start : start + batch_size]
        answer = logits_for(classify, [results[k].adversarial for k in part]).argmax(1).tolist()
        for k, prediction in zip(part, answer, strict=True):
            if prediction == results[k].label:
                kept = results[k].text
                checked[k] = replace(results[k], status="failed", adversarial=kept, changed=0)
    return checked


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
