"""Compare the networks of a run with the headline network, on the same test examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustprune.measure.comparison import PairedTest, holm, mcnemar, paired_bootstrap
from robustprune.report.records import RunRecord
from robustprune.report.wording import count, p_value
from robustprune.run.constant import NOTE


@dataclass(frozen=True)
class Compared:
    """How much more often the second of two networks is correct, on the same examples.

    Attributes:
        test: McNemar's exact test, with the difference as a fraction.
        interval: the 95% interval of the difference, by a paired bootstrap.
    """

    test: PairedTest
    interval: tuple[float, float]

    @property
    def points(self) -> str:
        """The difference in percentage points, such as −3.0 [−8.0, 2.0]."""
        low, high = (signed(100 * end) for end in self.interval)
        return f"{signed(100 * self.test.difference)} [{low}, {high}]"


@dataclass(frozen=True)
class PairedRow:
    """A row of the table, as text: another network beside the headline one."""

    title: str
    note: str
    clean: str
    worst: str
    only: str
    p: str


def compared(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Compared:
    """Compare two networks by the examples (N,) on which each is correct."""
    test = mcnemar(first.tolist(), second.tolist())
    return Compared(test, paired_bootstrap(test.better, test.worse, len(first)))


def paired_rows(run: RunRecord) -> list[PairedRow]:
    """Return a row for each network but the headline one, or none if the run keeps no answers.

    The p-values of the worst case are corrected for the number of rows by Holm's method. Networks
    that give one class for everything come last and are not tested.
    """
    headline = run.answers.get(run.metrics.headline)
    others = [m for m in run.metrics.models if m.name != run.metrics.headline]
    if headline is None:
        return []
    constant = run.constant | ({m.name for m in others} if _is_constant(run) else set())
    others.sort(key=lambda model: model.name in constant)
    answers = [run.answers[model.name] for model in others]
    clean = [compared(headline.clean, one.clean) for one in answers]
    worst = [compared(headline.worst, one.worst) for one in answers]
    tested = [row.test.p for row, m in zip(worst, others, strict=True) if m.name not in constant]
    corrected: Sequence[float | None] = [*holm(tested), *[None] * (len(others) - len(tested))]
    return [
        PairedRow(
            title=model.title,
            note=NOTE if model.name in run.constant else "",
            clean=without.points,
            worst=under.points,
            only=f"{count(under.test.better)} / {count(under.test.worse)}",
            p="–" if p is None else p_value(p).removeprefix("= "),
        )
        for model, without, under, p in zip(others, clean, worst, corrected, strict=True)
    ]


def _is_constant(run: RunRecord) -> bool:
    return run.metrics.headline in run.constant


def signed(points: float) -> str:
    """Write a difference with its sign, and without −0.0."""
    value = round(points, 1) + 0.0
    return f"−{abs(value):.1f}" if value < 0 else f"+{value:.1f}" if value > 0 else "0.0"
