"""Test rows against the most robust one, on the same examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from robustprune.compare.board import Board, Row
from robustprune.measure.comparison import holm


@dataclass(frozen=True)
class AgainstBest:
    """The result of a paired test for each row of a board.

    Attributes:
        best: the row with the highest robust accuracy, and of equal ones the sparsest; rows with a
            constant answer are left out. None if no row has its answers.
        p: for each row the two-sided p-value, adjusted by Holm's method over all rows; None for the
            best one, for constant rows, and if answers or common seeds are missing.
    """

    best: Row | None
    p: tuple[float | None, ...]


def against_best(board: Board) -> AgainstBest:
    """Test for every row whether it is correct less often under attack than the most robust one.

    Examples are paired, and so are seeds with the same number: d_i is the number of seeds in which
    only this row is correct on example i, minus those in which only the best row is. If neither is
    better, d_i is as likely as −d_i, which `sign_test` uses. With one seed it is McNemar's exact
    test. The result is about these trained networks on examples like these, not about other seeds.
    """
    able = [row for row in board.rows if not row.constant and row.answers]
    if not able:
        return AgainstBest(None, (None,) * len(board.rows))
    best = max(able, key=lambda row: (row.worst.mean, -row.density))
    found = [_p(row, best) if row is not best and row in able else None for row in board.rows]
    told = [place for place, p in enumerate(found) if p is not None]
    adjusted = dict(zip(told, holm([p for p in found if p is not None]), strict=True))
    return AgainstBest(best, tuple(adjusted.get(place) for place in range(len(found))))


def _p(row: Row, best: Row) -> float | None:
    seeds = [seed for seed in row.answers if seed in best.answers]
    if not seeds or row.labels != best.labels:
        return None
    pairs = [row.answers[s].astype(np.int64) - best.answers[s].astype(np.int64) for s in seeds]
    return sign_test(np.sum(pairs, axis=0).tolist())


def sign_test(differences: Sequence[int]) -> float:
    """Return the two-sided p-value of Σ d_i if every d_i is as likely as −d_i. It is the exact
    share of all sign flips whose sum is at least as far from zero (Fisher's randomisation test for
    pairs, 1935; for d_i in {−1, 0, 1} it is McNemar's test)."""
    sizes = np.abs(np.asarray(differences, dtype=np.int64))
    chances: NDArray[np.float64] = np.ones(1)  # for each sum, from the lowest in steps of one
    for size, times in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
        part = np.zeros(2 * size * times + 1)
        part[:: 2 * size] = binom.pmf(np.arange(times + 1), times, 0.5)
        chances = np.convolve(chances, part)
    sums = np.arange(len(chances)) - int(sizes.sum())
    return min(1.0, float(chances[np.abs(sums) >= abs(sum(differences))].sum()))
