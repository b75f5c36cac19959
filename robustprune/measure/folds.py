"""Stratified cross-validation: choosing a model where nothing can be spared to hold out."""

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
    """(training, validation) indices of each fold, every class spread over the folds as evenly as
    its number allows; with `repeats`, so many divisions drawn one after the other.

    Args:
        y: (N,) class indices.

    Returns:
        repeats × folds pairs of ascending int64 indices; the validation parts of one division
        are disjoint and together everything.

    Raises:
        ValueError: fewer than two folds, a class with fewer examples than folds (some training
            or validation part would be without it), or repeats below 1.
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
            # going on where the class before ended keeps the folds' sizes within one
            fold[members[order]] = (torch.arange(len(members)) + offset) % folds
            offset += len(members)
        for index in range(folds):
            pairs.append(((fold != index).nonzero().flatten(), (fold == index).nonzero().flatten()))
    return pairs


@dataclass(frozen=True)
class Choice:
    """Outcome of `choose_by_cross_validation`.

    Attributes:
        best: name of the candidate with the highest mean; of equal ones the first.
        scores: name -> mean and standard deviation over the folds.
    """

    best: str
    scores: dict[str, Spread]


def choose_by_cross_validation(
    candidates: Mapping[str, Score], y: Tensor, *, folds: int = 5, repeats: int = 1, seed: int = 0
) -> Choice:
    """Score every candidate on the same folds of the training split.

    The scores of one candidate are not independent, so their standard deviation says how much
    folds differ and is no error of the mean.

    Args:
        candidates: by name, what trains on some of the training examples and scores on others.
        y: (N,) labels of the training split.

    Raises:
        ValueError: no candidates, or what `stratified_folds` refuses.
    """
    if not candidates:
        raise ValueError("nothing to choose from: give at least one candidate")
    pairs = stratified_folds(y, folds, repeats=repeats, seed=seed)
    scores = {
        name: mean_sd([score(training, held) for training, held in pairs])
        for name, score in candidates.items()
    }
    return Choice(max(scores, key=lambda name: scores[name].mean), scores)
