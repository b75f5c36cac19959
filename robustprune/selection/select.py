"""Choose candidates by their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robustprune.selection.pool import Examples, Method, Pool


@dataclass(frozen=True, eq=False)
class Selection:
    """The scores of N candidates, and which of them are chosen.

    Attributes:
        scores: (N,) the method's scores; higher ones are better.
        chosen: (K,) int64 indices of the chosen ones, from the highest score down.
        weights: (N,) factors for the loss of each candidate: 0 where it is not chosen, and 1 on
            average where it is.
    """

    scores: Tensor
    chosen: Tensor
    weights: Tensor


def select_adversarial_examples(
    model: nn.Module,
    pool: Pool,
    validation: Examples | None = None,
    *,
    method: Method,
    keep: float | Literal["positive"],
    balanced: bool = False,
    weighted: bool = False,
) -> Selection:
    """Score every candidate and choose the best. Of equal scores the first candidate is chosen.

    Args:
        model: the network that scores the candidates; it is not changed.
        pool: the candidates, on the model's device.
        validation: the examples (x, y) by which candidates are scored: attacked ones or clean ones,
            depending on what the network must be good at. `BoundaryDistance`, `HighestLoss` and
            `Random` need none, nor does `DataShapley`, whose utility has its own. Never use the
            test set.
        method: `KnnShapley(...)`, `DataShapley(...)`, `TracIn(...)`, `BoundaryDistance(...)`,
            `HighestLoss()`, `Random(...)` or your own function of this kind.
        keep: the fraction to choose, in (0, 1], rounded to the nearest number and at least one; or
            "positive" for all scores above zero, if the method is signed.
        balanced: whether that fraction is chosen from each class. Scores of one class are often
            higher than those of another, and a network that sees only one class attacked learns to
            answer with it.
        weighted: whether weights are proportional to the scores; otherwise they are 1.

    Raises:
        ValueError: `keep` is out of range; it is "positive" for a method without a sign, with
            `balanced`, or if no score is above zero; the scores are not one finite number for each
            candidate; or weights would come from scores that are negative or all zero.
    """
    if keep != "positive" and not (isinstance(keep, int | float) and 0 < keep <= 1):
        raise ValueError(f"keep={keep!r} must be a fraction in (0, 1] or 'positive'")
    if keep == "positive" and not method.signed:
        raise ValueError(
            f"keep='positive' would take everything: {type(method).__name__} has no sign; give a "
            "fraction"
        )
    if keep == "positive" and balanced:
        raise ValueError("keep='positive' takes no fraction of each class; leave out balanced")
    scores = method(model, pool, validation).detach()
    if scores.shape != (len(pool),) or not bool(scores.isfinite().all()):
        raise ValueError(
            f"{type(method).__name__} gave scores of shape {tuple(scores.shape)} for {len(pool)} "
            "candidates, or some that are not finite"
        )
    chosen = _best(scores, pool.y, keep, balanced=balanced)
    weights = torch.zeros_like(scores)
    weights[chosen] = _proportional(scores[chosen]) if weighted else 1.0
    return Selection(scores, chosen, weights)


def _best(
    scores: Tensor, y: Tensor, keep: float | Literal["positive"], *, balanced: bool
) -> Tensor:
    """Return the chosen indices (K,), from the highest score down."""
    ranked = scores.argsort(descending=True, stable=True)
    if keep == "positive":
        chosen = ranked[scores[ranked] > 0]
        if len(chosen) == 0:
            raise ValueError(
                f"none of the {len(y)} candidates has a value above zero (the highest is "
                f"{scores.max().item():.3g}); give a fraction"
            )
        return chosen
    labels = y[ranked] if balanced else torch.zeros_like(ranked)
    taken = torch.zeros_like(ranked, dtype=torch.bool)
    for label in set(labels.tolist()):
        members = (labels == label).nonzero().flatten()
        taken[members[: max(1, round(keep * len(members)))]] = True
    return ranked[taken]


def _proportional(scores: Tensor) -> Tensor:
    if bool((scores < 0).any()) or not bool(scores.sum() > 0):
        raise ValueError(
            f"weights need scores of at least zero, not all of them zero; these go from "
            f"{scores.min().item():.3g} to {scores.max().item():.3g}; use keep='positive' or "
            "weighted=False"
        )
    return scores / scores.mean()
