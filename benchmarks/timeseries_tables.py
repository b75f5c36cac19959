"""Tables of `benchmarks.timeseries`, from the lines of its results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from robustprune.measure import (
    Ranking,
    average_ranks,
    bootstrap_interval,
    holm,
    mean_sd,
    paired_wilcoxon,
)
from robustprune.report.critical_difference import critical_difference

#: published mean (sd) of natural FCN (Wang et al. 2017; Fawaz et al. 2019)
PUBLISHED = {"ECG200": "88.9 (1.0)", "SonyAIBORobotSurface1": "96.0 (0.7)"}
FIGURES = ("clean", "pgd20")

Results = dict[tuple[str, str], dict[int, dict]]  # (set, method) -> seed -> line


def tables(rows: Iterable[dict]) -> str:
    """Markdown of every part there are results of."""
    parts: dict[str, Results] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        parts[row["part"]][row["set"], row["method"]][row["seed"]] = row
    made = {"natural": natural_table, "training": training_tables, "pruning": pruning_table}
    return "\n\n".join(make(parts[part]) for part, make in made.items() if part in parts)


def natural_table(results: Results) -> str:
    rows = ["| set | clean | 95% of the mean | PGD-20 | seeds | published |", "| --- " * 6 + "|"]
    for (name, _), seeds in results.items():
        clean = values(seeds, "clean")
        low, high = bootstrap_interval(clean)
        cells = [name, spread(clean), f"{low:.1f} to {high:.1f}", spread(values(seeds, "pgd20"))]
        rows.append(f"| {' | '.join(cells)} | {len(clean)} | {PUBLISHED.get(name, '')} |")
    return "\n".join(rows)


def training_tables(results: Results) -> str:
    """One table a set: each method against all and against the random control, paired by seed."""
    sets = list(dict.fromkeys(name for name, _ in results))
    parts = [_training_table(name, results) for name in sets]
    rankings = ranks(results)
    for figure, ranking in rankings.items():
        listed = ", ".join(f"{name} {rank:.2f}" for name, rank in ranking.ranks.items())
        parts.append(
            f"Average ranks by {figure} over the {ranking.blocks} sets (means over seeds): "
            f"{listed}; Friedman p = {ranking.p:.2g}, critical difference {ranking.critical:.2f}."
        )
    return "\n\n".join(parts)


def ranks(results: Results) -> dict[str, Ranking]:
    """For both figures, methods ranked by their means on the sets where all have results."""
    sets = list(dict.fromkeys(name for name, _ in results))
    methods = [m for m in dict.fromkeys(method for _, method in results) if m != "natural"]
    complete = [s for s in sets if all(results.get((s, m)) for m in methods)]
    if len(complete) < 2 or len(methods) < 3:
        return {}
    return {
        figure: average_ranks(
            {m: [_mean(values(results[s, m], figure)) for s in complete] for m in methods}
        )
        for figure in FIGURES
    }


def write_plots(rows: Iterable[dict], out: Path) -> list[Path]:
    """Critical difference diagrams of the training part, as SVG in `out`."""
    results: Results = defaultdict(dict)
    for row in rows:
        if row["part"] == "training":
            results[row["set"], row["method"]][row["seed"]] = row
    written = []
    for figure, ranking in ranks(results).items():
        title = {"clean": "Clean accuracy", "pgd20": "Accuracy under PGD-20"}[figure]
        plot = critical_difference(ranking, key=f"ranks-{figure}", title=title)
        path = out / f"{plot.key}.svg"
        path.write_text(plot.svg, encoding="utf-8")
        written.append(path)
    return written


def _training_table(name: str, results: Results) -> str:
    methods = [m for s, m in results if s == name]
    compared = [m for m in methods if m not in ("natural", "all")]
    against_all = {f: _tests(name, "all", compared, results, f) for f in FIGURES}
    against_random = _tests(
        name, "random", [m for m in compared if m != "random"], results, "clean"
    )
    rows = [
        f"**{name}**",
        "",
        "| trained on | clean | PGD-20 | Δ clean to all | p, Holm | Δ PGD-20 to all | p, Holm "
        "| Δ clean to random | p, Holm |",
        "| --- " * 9 + "|",
    ]
    for method in methods:
        seeds = results[name, method]
        cells = [method, *(spread(values(seeds, figure)) for figure in FIGURES)]
        for tests in (against_all["clean"], against_all["pgd20"], against_random):
            cells += tests.get(method, ["", ""])
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _tests(
    name: str, base: str, methods: Sequence[str], results: Results, figure: str
) -> dict[str, list[str]]:
    """method -> [difference with its bootstrap interval, p adjusted over the methods]."""
    tested, cells = {}, {}
    for method in methods:
        shared = sorted(results[name, method].keys() & results[name, base].keys())
        if len(shared) < 2:
            continue
        first, second = (
            [100 * results[name, which][seed][figure] for seed in shared]
            for which in (base, method)
        )
        tested[method] = paired_wilcoxon(first, second)
        low, high = bootstrap_interval([b - a for a, b in zip(first, second, strict=True)])
        cells[method] = f"{tested[method].difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    adjusted = holm([test.p for test in tested.values()])
    return {
        method: [cells[method], f"{p:.3f}" if p >= 0.001 else "< 0.001"]
        for method, p in zip(tested, adjusted, strict=True)
    }


def pruning_table(results: Results) -> str:
    rows = [
        "| set | training | network | clean | PGD-20 | Δ PGD-20 to dense | seeds |",
        "| --- " * 7 + "|",
    ]
    for (name, method), seeds in results.items():
        training, network = method.split()
        dense = results[name, f"{training} dense"]
        shared = sorted(seeds.keys() & dense.keys())
        change = ""
        if network != "dense" and shared:
            gaps = [100 * (seeds[s]["pgd20"] - dense[s]["pgd20"]) for s in shared]
            change = f"{_mean(gaps):+.1f}"
            if len(gaps) > 1:
                low, high = bootstrap_interval(gaps)
                change += f" [{low:+.1f}, {high:+.1f}]"
        figures = [spread(values(seeds, figure)) for figure in FIGURES]
        cells = [name, training, network, *figures, change, str(len(seeds))]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def values(seeds: dict[int, dict], figure: str) -> list[float]:
    """In percent, by seed."""
    return [100 * seeds[seed][figure] for seed in sorted(seeds)]


def spread(percent: Sequence[float]) -> str:
    if len(percent) < 2:
        return f"{percent[0]:.1f}"
    measured = mean_sd(percent)
    return f"{measured.mean:.1f} ± {measured.sd:.1f}"


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
