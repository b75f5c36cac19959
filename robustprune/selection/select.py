"""From scores to a choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from robustprune.selection.pool import Examples, Method, Pool


@dataclass(frozen=True, eq=False)
class Selection:
    """What a method says of N candidates, and which are taken.

    Attributes:
        scores: (N,) the method's values; the higher, the more worth training on.
        chosen: (K,) int64 indices of those taken, from the highest score down.
        weights: (N,) what each candidate's loss is to be multiplied with: 0 where it is not
            taken, and 1 on average where it is.
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
    """Value every candidate and take the best.

    Ties go to the candidate that comes first.

    Args:
        model: the network whose view of the candidates counts; left as it is.
        pool: the candidates, on the model's device.
        validation: (x, y) by which the candidates are valued, attacked or clean, whichever the
            network shall be good at; `BoundaryDistance`, `HighestLoss`, `Random` and
            `DataShapley`, whose utility has its own, need none. Never the test set.
        method: `KnnShapley(...)`, `DataShapley(...)`, `TracIn(...)`, `BoundaryDistance(...)`,
            `HighestLoss()`, `Random(...)` or a function like them.
        keep: the fraction to take, in (0, 1], rounded to the nearest number and at least one; or
            "positive" for all that have a value above zero, where the method has a sign.
        balanced: take that fraction of each class. Values of one class are often higher than those
            of another, and a network that sees one class attacked alone learns to answer with it.
        weighted: weights in proportion to the scores instead of 1.

    Raises:
        ValueError: keep out of range, "positive" with a method without a sign, where no score is
            above zero or balanced, scores that are not one finite number a candidate, or weights
            from scores that are below zero or all zero.
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
    """(K,) indices from the highest score down."""
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
