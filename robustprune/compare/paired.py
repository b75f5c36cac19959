"""Rows against the most robust one, on the same examples."""

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
    """What a paired test says of each row of a board.

    Attributes:
        best: the row with the highest robust accuracy, the sparser of two alike; rows that give
            one class for everything are left out. None where no row has its answers.
        p: of each row, two-sided and adjusted by Holm over all of them; None of the best one, of
            constant rows, and where answers or common seeds are missing.
    """

    best: Row | None
    p: tuple[float | None, ...]


def against_best(board: Board) -> AgainstBest:
    """Every row against the most robust one: is it right less often under attack?

    Examples are paired, seeds of the same number are, too: d_i is the number of seeds in which the
    row alone is right on example i, less those in which the best alone is. If neither is better,
    each d_i is as likely as −d_i, which `sign_test` goes by. With one seed it is McNemar's exact
    test. It speaks of these trained networks on examples like these, not of other seeds.
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
    """Two-sided p of Σ d_i where every d_i is as likely as −d_i: the share of all sign flips whose
    sum is as far from zero, counted exactly (Fisher's randomisation test for pairs, 1935; with
    d_i in {−1, 0, 1} it is McNemar's)."""
    sizes = np.abs(np.asarray(differences, dtype=np.int64))
    chances: NDArray[np.float64] = np.ones(1)  # of each sum, from the lowest in steps of one
    for size, times in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
        part = np.zeros(2 * size * times + 1)
        part[:: 2 * size] = binom.pmf(np.arange(times + 1), times, 0.5)
        chances = np.convolve(chances, part)
    sums = np.arange(len(chances)) - int(sizes.sum())
    return min(1.0, float(chances[np.abs(sums) >= abs(sum(differences))].sum()))
