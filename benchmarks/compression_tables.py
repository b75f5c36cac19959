"""The tables of `benchmarks.compression`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t

from robustprune.measure import holm
from robustprune.measure.comparison import least_p

#: with fewer networks no test is made
LEAST = 3
ALPHA = 0.05
ROUNDED = "few bits"
WORST = "accuracy of the worst class"
#: the measures of the table, with short titles
SHOWN = {
    "accuracy": "accuracy",
    "accuracy, attacked": "attacked",
    WORST: "worst class",
    "calibration error (ECE)": "ECE",
    "calibration error (ECE), attacked": "ECE, attacked",
    "negative log-likelihood": "NLL",
    "negative log-likelihood, attacked": "NLL, attacked",
    "outside inputs found, softmax (AUROC)": "outside",
    "members found by their loss (AUROC)": "members",
}


@dataclass(frozen=True)
class Shift:
    """How a measure changes at one level of a method.

    Attributes:
        method, level, measure: of what.
        unit, better: as in `measure.Change`.
        seeds: the number of pairs of networks.
        dense: the mean of the dense networks.
        mean: the mean difference, compressed − dense, and `half` the half width of its 95%
            interval: Student's t over pairs, or over examples where there is one pair.
        adjusted: the p-value after Holm's correction for all levels and measures of the method;
            None where there are too few pairs.
    """

    method: str
    level: float
    measure: str
    unit: str
    better: int
    seeds: int
    dense: float
    mean: float
    half: float
    adjusted: float | None

    @property
    def shown(self) -> bool:
        """Whether there is a change, at a level of 5% for the whole method."""
        return self.adjusted is not None and self.adjusted <= ALPHA

    @property
    def harm(self) -> float:
        """By how much the compressed networks are worse."""
        return -self.better * self.mean


def by_number(found: Sequence[Mapping]) -> list[list[Mapping]]:
    """The rows of methods with so many networks that they are tested over seeds, and the rest."""
    seeds: dict[str, set[int]] = {}
    for row in found:
        seeds.setdefault(row["method"], set()).add(row["seed"])
    parts = [[row for row in found if (len(seeds[row["method"]]) >= LEAST) is many]
             for many in (True, False)]  # fmt: skip
    return [part for part in parts if part]


def with_worst(changes: Mapping[str, Mapping]) -> dict[str, Mapping]:
    """The changes of one comparison, and the accuracy of each network's worst class."""
    classes = [one for name, one in changes.items() if name.startswith("accuracy, class ")]
    found = {name: one for name, one in changes.items() if not name.startswith("accuracy, class ")}
    if len(classes) > 1:
        found[WORST] = {
            "unit": "share",
            "better": 1,
            **{which: min(one[which] for one in classes) for which in ("dense", "compressed")},
        }
    return found


def shifts(found: Sequence[Mapping]) -> list[Shift]:
    """Every measure at every level of every method, with tests over the seeds.

    Paired by seed, Student's t. Of one seed, the tests of the comparison itself, over examples.
    """
    result = []
    for method in dict.fromkeys(row["method"] for row in found):
        raw: list[tuple[Shift, float | None]] = []
        mine = [row for row in found if row["method"] == method]
        for level in sorted({row["level"] for row in mine}, reverse=True):
            at = [with_worst(row["changes"]) for row in mine if row["level"] == level]
            for measure in dict.fromkeys(name for one in at for name in one):
                pairs = [one[measure] for one in at if measure in one]
                raw.append(_shift(method, level, measure, pairs))
        result += _corrected(raw)
    return result


def _shift(
    method: str, level: float, measure: str, pairs: Sequence[Mapping]
) -> tuple[Shift, float | None]:
    apart = [one["compressed"] - one["dense"] for one in pairs]
    mean, number, half, p = fmean(apart), len(pairs), math.nan, None
    if number >= LEAST:
        se = stdev(apart) / math.sqrt(number)
        if se > 1e-12:
            half = float(t.ppf(0.975, number - 1)) * se
            p = float(2 * t.sf(abs(mean) / se, number - 1))
        else:  # no spread is known; shares of n examples often differ alike
            p = least_p(number) if abs(mean) > 1e-12 else 1.0
    elif number == 1 and "p" in pairs[0]:
        half = (pairs[0]["ci95"][1] - pairs[0]["ci95"][0]) / 2
        p = pairs[0]["p"]
    dense = fmean(one["dense"] for one in pairs)
    unit, better = pairs[0]["unit"], pairs[0]["better"]
    return Shift(method, level, measure, unit, better, number, dense, mean, half, None), p


def _corrected(raw: Sequence[tuple[Shift, float | None]]) -> list[Shift]:
    tested = [place for place, (_, p) in enumerate(raw) if p is not None]
    adjusted = dict(zip(tested, holm([p for _, p in raw if p is not None]), strict=True))
    return [
        Shift(**{**vars(one), "adjusted": adjusted.get(place)})
        for place, (one, _) in enumerate(raw)
    ]


def table(found: Sequence[Mapping], shown: Mapping[str, str] = SHOWN) -> str:
    """Mean differences to the dense networks with the half width of their 95% intervals, in points
    (NLL in nats); bold where a change is shown after the correction."""
    every = {(one.method, one.level, one.measure): one for one in shifts(found)}
    columns = [name for name in shown if any(name == measure for _, _, measure in every)]
    churned = all("churn" in row for row in found)
    titles = [*(shown[name] for name in columns), *(["other answers"] if churned else [])]
    lines = [
        f"| method | level | networks | {' | '.join(titles)} |",
        "| :-- " + "| --: " * (len(titles) + 2) + "|",
    ]
    for method, level in dict.fromkeys((method, level) for method, level, _ in every):
        mine = [row for row in found if (row["method"], row["level"]) == (method, level)]
        cells = [_cell(every.get((method, level, name))) for name in columns]
        if churned:
            cells.append(f"{100 * fmean(row['churn'] for row in mine):.1f}")
        cells = [method, level_text(method, level), str(len(mine)), *cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def level_text(method: str, level: float) -> str:
    return f"{level:g} bits" if method == ROUNDED else f"{100 * level:g}%"


def _cell(one: Shift | None) -> str:
    if one is None:
        return ""
    scale, digits = (100, 1) if one.unit == "share" else (1, 3)
    text = f"{scale * one.mean:+.{digits}f}"
    if not math.isnan(one.half):
        text += f" ± {scale * one.half:.{digits}f}"
    text = text.replace("-", "−")
    return f"**{text}**" if one.shown else text


#: (method, level) of networks whose weights take about as many bits: 32 bits for each kept weight
#: and one bit for each place, against few bits for all
EQUAL = (
    (("ours", 0.2), ("few bits", 8.0)),
    (("ours", 0.1), ("few bits", 4.0)),
    (("ours", 0.05), ("few bits", 3.0)),
    (("magnitude", 0.1), ("few bits", 4.0)),
)


def direct(found: Sequence[Mapping]) -> str:
    """Few bits less pruning at about the same size, paired by seed, with Holm's correction for the
    whole table."""
    raw, cells = [], {}
    for pair in EQUAL:
        sides = [
            {row["seed"]: with_worst(row["changes"]) for row in found
             if (row["method"], row["level"]) == side}
            for side in pair
        ]  # fmt: skip
        seeds = [seed for seed in sides[0] if seed in sides[1]]
        for measure in SHOWN if len(seeds) >= LEAST else ():
            apart = [
                {**sides[0][seed][measure],
                 "dense": sides[0][seed][measure]["compressed"],
                 "compressed": sides[1][seed][measure]["compressed"]}
                for seed in seeds if measure in sides[0][seed] and measure in sides[1][seed]
            ]  # fmt: skip
            shift, p = _shift("", 0.0, measure, apart)
            cells[pair, measure] = len(raw)
            raw.append((shift, p))
    if not raw:
        return ""
    shifts = _corrected(raw)
    lines = [
        f"| few bits less pruning | bits a weight | networks | {' | '.join(SHOWN.values())} |",
        "| :-- | :-- | --: " + "| --: " * len(SHOWN) + "|",
    ]
    for pair in dict.fromkeys(pair for pair, _ in cells):
        (pruned, density), (rounded, bits) = pair
        values = [shifts[cells[pair, measure]] for measure in SHOWN]
        names = f"{level_text(rounded, bits)} less {pruned} {level_text(pruned, density)}"
        size = f"{bits:g} and {32 * density + 1:.1f}"
        lines.append(f"| {names} | {size} | {values[0].seeds} | {' | '.join(map(_cell, values))} |")
    return "\n".join(lines)


def first(found: Sequence[Mapping]) -> str:
    """The mildest level at which each measure of a method is shown to change: the highest density,
    or the largest number of bits. Measures that move first come first."""
    every = [one for one in shifts(found) if one.adjusted is not None]
    methods = list(dict.fromkeys(one.method for one in every))
    measures = list(dict.fromkeys(one.measure for one in every))
    starts = {
        (method, measure): max(
            (one for one in every if (one.method, one.measure) == (method, measure) and one.shown),
            key=lambda one: one.level,
            default=None,
        )
        for method in methods
        for measure in measures
    }
    lines = [f"| measure | {' | '.join(methods)} |", "| :-- " + "| --: " * len(methods) + "|"]

    def early(measure: str) -> list[float]:
        return [-(one.level if (one := starts[method, measure]) else 0.0) for method in methods]

    for measure in sorted(measures, key=early):
        cells = []
        for method in methods:
            one = starts[method, measure]
            arrow = "" if one is None else "worse" if one.harm > 0 else "better"
            cells.append("–" if one is None else f"{level_text(method, one.level)} {arrow}")
        lines.append(f"| {measure} | {' | '.join(cells)} |")
    return "\n".join(lines)
