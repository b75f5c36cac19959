"""Results of attacks on texts, and the figures that summarise them."""

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
    """Return the classifier's logits (n, C), finite or −∞ (an excluded class), after a check.

    Raises:
        ValueError: the logits have another shape, or there are none.
        NotFinite: logits are NaN, so that success cannot be decided.
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
    """The result of an attack on one text.

    Attributes:
        text: the original text.
        label: its true class.
        adversarial: the changed text; the original unless status is "success".
        status: "success", "failed", or "skipped" where the original is already misclassified (one
            query).
        queries: number of texts for which the classifier was queried.
        words: number of words of the original.
        changed: number of words of the original that were replaced; 0 unless status is "success".
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
        """Return the share of words that were changed."""
        return self.changed / max(self.words, 1)

    @property
    def diff(self) -> list[Diff]:
        """Return the differences between the original and the adversarial text, word by word."""
        return word_diff(self.text, self.adversarial)


@dataclass(frozen=True)
class TextSummary:
    """Figures of an attack. Shares are in [0, 1]; means of nothing are NaN.

    Attributes:
        n: number of texts.
        clean_accuracy: share of texts that are classified correctly before the attack.
        accuracy_under_attack: share of texts that are still classified correctly after the attack.
        success_rate: share of successes among the attacked texts, which are those classified
            correctly.
        mean_queries: mean number of queries per attacked text.
        mean_changed: mean share of changed words over the successes.
    """

    n: int
    clean_accuracy: float
    accuracy_under_attack: float
    success_rate: float
    mean_queries: float
    mean_changed: float


def summarise(results: Sequence[TextResult]) -> TextSummary:
    """Return the figures by which attacks on text are reported.

    Raises:
        ValueError: `results` is empty.
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
    """Return for each text the result of the best attack: a success with the fewest changes.

    Queries are summed over all the attacks.

    Raises:
        ValueError: there is no attack, or the attacks are on different texts.
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
    """Query the classifier again for every success, and turn those that do not hold into failures.

    The last digits of an answer may depend on the other texts of its batch. The queries of this
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
