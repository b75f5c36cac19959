"""Stratified cross-validation, to choose a model if there are too few examples for a held-out
set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustprune.measure.statistics import Spread, mean_sd

#: (training indices, validation indices) -> score, the higher the better
Score = Callable[[Tensor, Tensor], float]


def stratified_folds(
    y: Tensor, folds: int, *, repeats: int = 1, seed: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """Return (training, validation) indices of each fold, with every class spread evenly.

    Args:
        y: (N,) class indices.
        folds: the number of folds, at least 2.
        repeats: the number of random divisions into folds.
        seed: the seed of the divisions.

    Returns:
        repeats × folds pairs of ascending int64 indices. The validation parts of one division are
        disjoint, and together they are all examples.

    Raises:
        ValueError: `folds` is below 2, `repeats` is below 1, or a class has fewer examples than
            there are folds (some training or validation part would not have it).
    """
    if folds < 2 or repeats < 1:
        raise ValueError(f"folds={folds} must be at least 2 and repeats={repeats} at least 1")
    labels = y.cpu()
    for label in sorted(set(labels.tolist())):
        count = int((labels == label).sum())
        if count < folds:
            raise ValueError(
                f"class {label} has {count} examples, fewer than folds={folds}; take at most "
                f"{count} folds"
            )
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for _ in range(repeats):
        fold, offset = torch.zeros_like(labels), 0
        for label in sorted(set(labels.tolist())):
            members = (labels == label).nonzero().flatten()
            order = torch.randperm(len(members), generator=generator)
            # starting where the previous class ended, so that fold sizes differ by at most one
            fold[members[order]] = (torch.arange(len(members)) + offset) % folds
            offset += len(members)
        for index in range(folds):
            pairs.append(((fold != index).nonzero().flatten(), (fold == index).nonzero().flatten()))
    return pairs


@dataclass(frozen=True)
class Choice:
    """The result of `choose_by_cross_validation`.

    Attributes:
        best: the name of the candidate with the highest mean; of equal ones the first.
        scores: name -> mean and standard deviation over the folds.
    """

    best: str
    scores: dict[str, Spread]


def choose_by_cross_validation(
    candidates: Mapping[str, Score], y: Tensor, *, folds: int = 5, repeats: int = 1, seed: int = 0
) -> Choice:
    """Score every candidate on the same folds of the training split.

    The scores of one candidate are not independent. So their standard deviation shows how much
    folds differ, and is not an error of the mean.

    Args:
        candidates: by name, functions that train on some of the training examples and return a
            score on others.
        y: (N,) labels of the training split.

    Raises:
        ValueError: there are no candidates, or `stratified_folds` refuses.
    """
    if not candidates:
        raise ValueError("nothing to choose from: give at least one candidate")
    pairs = stratified_folds(y, folds, repeats=repeats, seed=seed)
    scores = {
        name: mean_sd([score(training, held) for training, held in pairs])
        for name, score in candidates.items()
    }
    return Choice(max(scores, key=lambda name: scores[name].mean), scores)
