"""Collect rows that can be compared: same task, same adversary, same attacks."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustprune.compare.gather import Result
from robustprune.measure.statistics import Proportion, mean_sd
from robustprune.report.records import ThreatRecord
from robustprune.run.constant import NOTE

#: fields of a config that a row's title or its columns show anyway
_TOLD = ("name", "seed", "search.methods", "search.density")


#: the part of a title that names the requested density
_KEPT = re.compile(r", ([\d.e-]+) (?:asked, [\d.e-]+ )?kept")


@dataclass(frozen=True)
class Measured:
    """A figure for one or several seeds.

    Attributes:
        values: the value for each seed.
        interval: the 95% interval of a proportion with a single seed; otherwise None.
        n: the number of examples of each proportion; None for other figures.
    """

    values: tuple[float, ...]
    interval: tuple[float, float] | None = None
    n: int | None = None

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def sd(self) -> float | None:
        """The sample standard deviation over seeds, or None for one seed."""
        return mean_sd(self.values).sd if len(self.values) > 1 else None


@dataclass(frozen=True)
class Row:
    """One network over its seeds. Figures that were not measured are None.

    Attributes:
        family: the part of the title that does not depend on the density, for the style of its
            points.
        clean, worst: accuracy as a fraction; worst is an upper bound of robust accuracy.
        certified: the share that is certified beyond eps, a lower bound, with its own n.
        r: the median of r*, an upper bound, in input units; also None if no attack reached it.
        asked: the density in the title, from which the kept density may differ by rounding or
            because the method learned it; the density itself where the title has none.
        kept, total: the numbers of kept and of all maskable weights, for the first seed.
        whole: the kept share of all parameters of the network, if their number is stored.
        file_bytes, latency: size and latency of the form that would be deployed; the latency is in
            seconds per batch.
        speed: the latency as a multiple of that of the dense network in the same run.
        constant: the number of its seeds in which it gives one class for every input.
        answers: seed -> (N,) bool, which examples are correct in the worst case, without seeds
            whose run has stored none. labels: the labels of these examples.
    """

    title: str
    family: str
    seeds: tuple[int, ...]
    density: float
    asked: float
    kept: int
    total: int
    clean: Measured
    worst: Measured
    certified: Measured | None
    r: Measured | None
    file_bytes: Measured | None
    latency: Measured | None
    speed: Measured | None
    baseline: bool
    whole: float | None = None
    constant: int = 0
    answers: Mapping[int, NDArray[np.bool_]] = field(default_factory=dict, compare=False)
    labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Board:
    """Rows of one task and threat model. attacks: name -> description, without seed and threat.

    Networks that give one class for every input come last. No attack can change their answer, but
    they are not robust.
    """

    task: str
    threat: ThreatRecord
    attacks: Mapping[str, str]
    n: int
    rows: tuple[Row, ...]

    @property
    def front(self) -> tuple[Row, ...]:
        """The rows that no other row beats, by density. Constant answers are left out."""
        able = [row for row in self.rows if not row.constant]
        return tuple(sorted(on_front(able), key=lambda row: row.density))

    @property
    def commonest(self) -> float | None:
        """The accuracy of always answering the most frequent class, or None where it isn't
        known."""
        labels = next((row.labels for row in self.rows if row.labels), None)
        return max(Counter(labels).values()) / len(labels) if labels else None


def boards_of(results: Sequence[Result]) -> list[Board]:
    """Sort results into boards. The seeds of one config are one row.

    Dense networks that are the same in several runs, because these share data, training and seeds,
    appear once.
    """
    by_board: dict[str, list[Result]] = {}
    for result in results:
        by_board.setdefault(_board_key(result), []).append(result)
    return [_board(members) for members in by_board.values()]


def on_front(rows: Iterable[Row]) -> list[Row]:
    """Return the rows for which no other is at most as dense and as robust, and better in one."""
    rows = list(rows)

    def beaten(row: Row) -> bool:
        return any(
            other.density <= row.density
            and other.worst.mean >= row.worst.mean
            and (other.density < row.density or other.worst.mean > row.worst.mean)
            for other in rows
        )

    return [row for row in rows if not beaten(row)]


def _board_key(result: Result) -> str:
    metrics = result.metrics
    attacks = {attack.name: _shortened(attack.description) for attack in metrics.attacks}
    key = (
        metrics.task.name,
        metrics.task.source,
        str(metrics.threat),
        attacks,
        result.model.clean.n,
    )
    return json.dumps(key, sort_keys=True)


def _shortened(description: str) -> str:
    """Return an attack's description without its seed and the threat model of the board."""
    threat = r"\bthreat=ThreatModel\((?:[^()]|\([^()]*\))*\)(?:, )?"
    return re.sub(rf"{threat}|,? ?\bseed=\w+", "", description)


def _board(results: Sequence[Result]) -> Board:
    first = results[0].metrics
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.group, result.model.name), []).append(result)
    unique: dict[object, list[Result]] = {}
    for key, members in groups.items():
        members.sort(key=lambda member: member.seed)
        unique.setdefault(_same_baseline(members) or key, members)
    titles = _titles(list(unique.values()))
    return Board(
        task=first.task.name,
        threat=first.threat,
        attacks={attack.name: _shortened(attack.description) for attack in first.attacks},
        n=results[0].model.clean.n,
        rows=tuple(sorted(map(_row, unique.values(), titles), key=lambda row: row.constant > 0)),
    )


def _same_baseline(members: Sequence[Result]) -> object:
    """Return a key that is equal for two dense networks that are the same; None for other
    networks."""
    if not members[0].model.is_dense:
        return None
    figures = [(m.seed, m.model.total, m.model.clean.value, m.model.worst.value) for m in members]
    return (members[0].model.name, tuple(figures))


def _titles(groups: Sequence[Sequence[Result]]) -> list[str]:
    """Return titles of the networks. Equal ones get the config fields in which they differ; the
    name only where nothing else does."""
    plain = [members[0].model.title for members in groups]
    flat = [dict(_flatten(members[0].config)) for members in groups]
    titles = []
    for place, title in enumerate(plain):
        twins = [other for other, name in enumerate(plain) if name == title]
        differing = _differing(flat, place, twins)
        untold = [field for field in differing if field not in _TOLD]
        alike = [t for t in twins if not set(untold) & set(_differing(flat, place, [place, t]))]
        named = ["name"] if "name" in _differing(flat, place, alike) else []
        differing = [*untold, *named]
        fields = ", ".join(f"{field}={_short(flat[place][field])}" for field in differing)
        titles.append(f"{title} ({fields})" if fields else title)
    return titles


def _differing(flat: Sequence[Mapping[str, Any]], place: int, others: Sequence[int]) -> list[str]:
    """Return the fields of a config that are not the same in all the others."""
    return [
        field
        for field in flat[place]
        if len({json.dumps(flat[other].get(field)) for other in others}) > 1
    ]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _row(members: Sequence[Result], title: str) -> Row:
    first = members[0].model

    def speed(result: Result) -> float | None:
        if result.cost is None or result.dense_cost is None:
            return None
        return result.cost.latency / result.dense_cost.latency

    minimal = [m.model.minimal for m in members]
    said = _KEPT.search(title)
    constant, seeds = sum(m.constant for m in members), len(members)
    note = f" ({NOTE}{f' in {constant} of {seeds} seeds' if seeds > 1 else ''})" if constant else ""
    return Row(
        title=f"{title}{note}",
        family=_KEPT.sub("", title),
        seeds=tuple(member.seed for member in members),
        density=first.density,
        asked=float(said[1]) if said else first.density,
        kept=first.kept,
        total=first.total,
        whole=first.whole_density,
        clean=_proportions([m.model.clean for m in members]),
        worst=_proportions([m.model.worst for m in members]),
        certified=_all([m.certified for m in members], _proportions),
        r=_all([None if one is None else one.median for one in minimal], _plain),
        file_bytes=_all([_of(m.cost, lambda c: float(c.file_bytes)) for m in members], _plain),
        latency=_all([_of(m.cost, lambda c: c.latency) for m in members], _plain),
        speed=_all([speed(m) for m in members], _plain),
        baseline=first.is_dense,
        constant=constant,
        answers={m.seed: m.answers for m in members if m.answers is not None},
        labels=members[0].labels,
    )


def _of(cost: Any, read: Callable[[Any], float]) -> float | None:
    return None if cost is None else read(cost)


def _all(values: Sequence[Any], make: Callable[[list[Any]], Measured]) -> Measured | None:
    """Return a figure only if every seed has it, because a mean over some of them would mislead."""
    return None if any(value is None for value in values) else make(list(values))


def _plain(values: list[float]) -> Measured:
    return Measured(tuple(values))


def _proportions(values: list[Proportion]) -> Measured:
    interval = values[0].ci95 if len(values) == 1 else None
    return Measured(tuple(one.value for one in values), interval, values[0].n)
