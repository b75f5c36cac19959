"""The tables of `benchmarks.layerwise`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from scipy.stats import t

from robustprune.measure import mcnemar, mean_sd, paired_bootstrap


def table(found: Sequence[Mapping], cases: Iterable[str]) -> str:
    """Robust / clean accuracy in percent, as mean ± sd over seeds, by method and density; and the
    seconds of one thread that a method took."""
    parts = []
    for case in cases:
        # of a network that was judged twice, by the harder attacks
        last = {
            (row["method"], row["density"], row["seed"]): row
            for row in sorted(found, key=lambda row: "autoattack" in row)
            if row["case"] == case
        }
        mine = list(last.values())
        densities = sorted({row["density"] for row in mine}, reverse=True)
        cells: dict[tuple[str, float], list[Mapping]] = defaultdict(list)
        for row in mine:
            cells[row["method"], row["density"]].append(row)
        lines = [
            f"### {case}",
            "",
            f"| method | seconds | {' | '.join(f'{density:g}' for density in densities)} |",
            "| --- " * (len(densities) + 2) + "|",
        ]
        for method in dict.fromkeys(row["method"] for row in mine):
            seconds = [row["seconds"] for row in mine if row["method"] == method]
            took = "" if method == "dense" else f"{sum(seconds) / len(seconds):.1f}"
            texts = [_cell(cells[method, density]) for density in densities]
            lines.append(f"| {method} | {took} | {' | '.join(texts)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def paired(found: Sequence[Mapping], case: str, against: str) -> str:
    """Differences to another method at the same density, or to "dense", paired by the dense network
    of each seed: mean and 95% interval of Student's t, of robust and clean accuracy in points.

    Of one network there is no such interval. Robust accuracy has the 95% interval over examples
    then, which are paired (`paired_bootstrap`), with the p-value of `mcnemar`."""
    rows = {
        (row["method"], row["density"], row["seed"]): row for row in found if row["case"] == case
    }
    lines = [f"| less {against} | density | networks | robust | clean |", "| --- " * 5 + "|"]
    for method, density in dict.fromkeys((name, density) for name, density, _ in rows):
        beside = 1.0 if against == "dense" else density
        pairs = [
            (row, rows[against, beside, seed])
            for (name, level, seed), row in rows.items()
            if (name, level) == (method, density) and (against, beside, seed) in rows
        ]
        if method == against or not pairs:
            continue
        if len(pairs) == 1:
            lines.append(f"| {method} | {density:g} | 1 | {_over_examples(*pairs[0])} |")
            continue
        cells = []
        for figure in ("robust", "clean"):
            spread = mean_sd([mine[figure] - other[figure] for mine, other in pairs])
            half = float(t.ppf(0.975, len(pairs) - 1)) * spread.sd / len(pairs) ** 0.5
            cells.append(f"{spread.mean:+.1f} ± {half:.1f}")
        lines.append(f"| {method} | {density:g} | {len(pairs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _over_examples(mine: Mapping, other: Mapping) -> str:
    """The two cells of one network beside another one."""
    found = mcnemar(*([one == "1" for one in row["stood"]] for row in (other, mine)))
    low, high = paired_bootstrap(found.better, found.worse, len(mine["stood"]))
    interval = f"({100 * low:+.1f} to {100 * high:+.1f}, p = {found.p:.2f})"
    clean = mine["clean"] - other["clean"]
    return f"{100 * found.difference:+.1f} {interval} | {clean:+.1f}"


def _cell(rows: Sequence[Mapping]) -> str:
    if not rows:
        return ""
    robust = [row["robust"] for row in rows]
    clean = sum(row["clean"] for row in rows) / len(rows)
    spread = f" ± {mean_sd(robust).sd:.1f}" if len(rows) > 1 else ""
    return f"{sum(robust) / len(robust):.1f}{spread} / {clean:.1f}"
