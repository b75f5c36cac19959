"""Tables of `benchmarks.language_tickets`, from the lines of its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from scipy.stats import binomtest

from robustprune.measure import mean_sd


def table(found: Sequence[dict]) -> str:
    """Markdown: one row a network, percent, mean ± sd over seeds where there are several."""
    figures: dict[str, dict[str, list[float]]] = {}
    for row in found:
        for name, value in row["figures"].items():
            if not name.endswith("queries"):
                figures.setdefault(row["model"], {}).setdefault(name, []).append(100 * value)
    columns = list(dict.fromkeys(name for row in figures.values() for name in row))
    lines = ["| network | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for model, row in figures.items():
        lines.append(f"| {model} | " + " | ".join(cell(row.get(c, [])) for c in columns) + " |")
    return "\n".join(lines)


def paired(found: Sequence[dict], one: str, other: str) -> str:
    """By attack and seed, how many sentences only one of two networks keeps, with the exact
    two-sided McNemar test (that each of them falls to either by the toss of a coin); in the row of
    all seeds, how many sentences either keeps in more of them, as one sentence is no new evidence
    in every seed.
    """
    stand: dict[tuple[str, str], dict[int, set[int]]] = {}
    for row in found:
        if "stand" in row:
            seeds = stand.setdefault((row["model"], row["part"]), {})
            seeds[row["seed"]] = set(row["stand"])
    lines = [f"| attack | seed | {one} alone | {other} alone | p |", "| --- " * 5 + "|"]
    for part in [part for model, part in stand if model == one and (other, part) in stand]:
        first, second = stand[one, part], stand[other, part]
        seeds = sorted(first.keys() & second.keys())
        of_all: Counter[int] = Counter()
        for seed in seeds:
            of_seed = Counter(first[seed])
            of_seed.subtract(second[seed])
            of_all.update(of_seed)
            lines.append(f"| {part} | {seed} | {coins(of_seed)} |")
        if len(seeds) > 1:
            lines.append(f"| {part} | all | {coins(of_all)} |")
    return "\n".join(lines)


def coins(surplus: Counter[int]) -> str:
    """Cells: sentences with a surplus, with a deficit, and the exact sign test of the two."""
    more, less = sum(n > 0 for n in surplus.values()), sum(n < 0 for n in surplus.values())
    p = binomtest(more, more + less).pvalue if more + less else 1.0
    return f"{more} | {less} | {p:.2g}"


def cell(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "".join(f"{value:.1f}" for value in values)
    spread = mean_sd(values)
    return f"{spread.mean:.1f} ± {spread.sd:.1f}"
