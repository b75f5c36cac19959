"""Search the widths of a network: HARP over input channels, each with its measured time, beside
uniform widths at the same measured latency.

    OMP_NUM_THREADS=1 python -m benchmarks.width --data-dir DATA --out runs/width

The dense networks are those of `benchmarks.layerwise_networks`, FCN (64, 128, 64). A budget is the
kept share of the channels' whole time. The found network is slimmed. Of 32 uniform widths, timed in
turns with it, the one whose shortest time is nearest is its opponent. Four networks are trained
under the same attack:

- found: 50 epochs of search on the dense network, slimmed, 50 epochs of training;
- uniform: the dense network's channels with the largest norms, slimmed, 100 epochs of training;
- found, new weights, and uniform, new weights: 100 epochs.

The judges are those of `benchmarks.layerwise`. The same command goes on where it stopped;
--table only prints the tables, and --picture draws them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from benchmarks.kept import note, rows
from benchmarks.layerwise import figures
from benchmarks.layerwise_networks import CASES, Case, data, dense, loader
from benchmarks.layerwise_tables import paired
from benchmarks.pictures import PICTURES
from robustprune.deploy import Network, channel_seconds, prune_channels, slim
from robustprune.deploy.timing import time_in_turns
from robustprune.measure import mean_sd
from robustprune.minmax import Adversarial, OptimizerSpec, train
from robustprune.models import build_model
from robustprune.report.style import INK, Plot, canvases, finish, looks
from robustprune.search import prune_scores
from robustprune.sparsity import maskable_layers
from robustprune.tasks import Task

SEARCH, REST = 50, 50  # epochs
STEPS = 32  # uniform widths k/32
BATCH = 10  # the series of one timed call
METHODS = ("found", "uniform", "found, new weights", "uniform, new weights")


def found(case: Case, task: Task, model: nn.Module, density: float, seed: int) -> Network:
    """The widths that the search finds, with the weights of the dense network."""
    x = task.test.x[:BATCH]
    cost = channel_seconds(model, x, repeats=50)
    kept = [name for name in maskable_layers(model) if name not in cost]
    ticket = prune_scores(
        model, loader(case, task, seed), density=density, attack=case.attack, method="harp",
        pattern="channel", cost=cost, dense=kept,
        epochs=SEARCH, optimizer=OptimizerSpec(lr=0.1, weight_decay=1e-4), quiet=True,
    )  # fmt: skip
    return slim(ticket.model, None, x)


def widths(network: nn.Module) -> list[int]:
    """The output channels of each convolution."""
    return [len(p) for p in network.parameters() if p.ndim == 3]


def fresh(case: Case, task: Task, wanted: Sequence[int], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(case.model, task, options={**case.options, "widths": list(wanted)})


def nearest(case: Case, task: Task, network: nn.Module) -> tuple[list[int], float, float, float]:
    """Uniform widths of the same latency; and the shortest seconds of both and of the dense one."""
    most = list(map(int, case.options["widths"]))  # type: ignore[call-overload]
    uniform = [[width * k // STEPS for width in most] for k in range(1, STEPS + 1)]
    x = task.test.x[:BATCH]
    others = [slim(fresh(case, task, one, 0), None, x) for one in uniform]
    times = time_in_turns([network.eval(), *others], x, repeats=50)
    mine, *theirs = (min(turns) for turns in times)
    best = min(range(STEPS), key=lambda k: abs(theirs[k] - mine))
    return uniform[best], mine, theirs[best], theirs[-1]


def whole(case: Case, name: str, task: Task, seed: int, out: Path) -> None:
    """Judge the dense network."""
    network = dense(name, seed, out, None)
    x = task.test.x[:BATCH]
    (times,) = time_in_turns([slim(network, None, x)], x, repeats=50)
    row = {"case": name, "seed": seed, "method": "dense", "density": 1.0}
    extra = {"widths": widths(network), "latency": min(times), "dense": min(times)}
    note(out, {**row, **extra, **figures(case, task, network, whole=False)})


def measure(case: Case, name: str, task: Task, density: float, seed: int, out: Path) -> None:
    """Find, train and judge the four networks of one dense network at one budget."""
    dense_one = dense(name, seed, out, None)
    torch.manual_seed(seed)
    started = time.process_time()
    small = found(case, task, dense_one, density, seed)
    searched = time.process_time() - started
    other, mine, theirs, longest = nearest(case, task, small)
    x = task.test.x[:BATCH]
    share = other[0] / int(case.options["widths"][0])  # type: ignore[index]
    networks: dict[str, tuple[nn.Module, int]] = {
        "found": (small, REST),
        "uniform": (
            slim(prune_channels(dense_one, x, density=share).model, None, x), SEARCH + REST
        ),
        "found, new weights": (fresh(case, task, widths(small), seed), SEARCH + REST),
        "uniform, new weights": (fresh(case, task, other, seed), SEARCH + REST),
    }  # fmt: skip
    for method, (network, epochs) in networks.items():
        torch.manual_seed(seed)
        started = time.process_time()
        train(
            network, loader(case, task, seed), Adversarial(case.attack), epochs=epochs,
            optimizer=case.optimizer, quiet=True,
        )  # fmt: skip
        seconds = time.process_time() - started + (searched if method == "found" else 0)
        latency = mine if method.startswith("found") else theirs
        row = {"case": name, "seed": seed, "method": method, "density": density}
        extra = {"widths": widths(network), "latency": latency, "dense": longest}
        judged = figures(case, task, network.eval(), whole=False)
        note(out, {**row, **extra, "seconds": round(seconds, 1), **judged})


def table(found_rows: Sequence[Mapping], case: str) -> str:
    lines = [
        "| budget | network | widths, mean | latency, share of the dense one | robust | clean |",
        "| --- " * 6 + "|",
    ]
    for density in sorted({row["density"] for row in found_rows}, reverse=True):
        for method in ("dense", *METHODS):
            mine = [
                row for row in found_rows
                if (row["case"], row["density"], row["method"]) == (case, density, method)
            ]  # fmt: skip
            if mine:
                each = zip(*(row["widths"] for row in mine), strict=True)
                mean = [f"{fmean(part):.0f}" for part in each]
                speed = fmean(row["latency"] / row["dense"] for row in mine)
                robust, clean = (mean_sd([row[k] for row in mine]) for k in ("robust", "clean"))
                lines.append(
                    f"| {density:g} | {method} | {', '.join(mean)} | {speed:.2f} | "
                    f"{robust.mean:.1f} ± {robust.sd:.1f} | {clean.mean:.1f} |"
                )
    return "\n".join(lines)


def picture(found_rows: Sequence[Mapping], case: str) -> Plot:
    """Above, the widths of each network at the smallest budget; below, robust accuracy over
    latency: means over seeds, with a bar of one standard deviation."""
    look = looks(METHODS)
    mine = [row for row in found_rows if row["case"] == case]
    budgets = sorted({row["density"] for row in mine if row["method"] != "dense"})
    most = fmean(row["robust"] for row in mine if row["method"] == "dense")
    with canvases(width=6.4, height=5.6, heights=(1, 1)) as (figure, (upper, lower)):
        for method in METHODS[:2]:
            here = [r for r in mine if (r["method"], r["density"]) == (method, budgets[0])]
            for number, row in enumerate(here):
                places = range(1, len(row["widths"]) + 1)
                label = "" if number else f"{method}, one line a seed"
                upper.plot(places, row["widths"], label=label, **look[method].line())
                upper.set_xticks(list(places))
        upper.set_ylim(bottom=0)
        upper.set_xlabel("convolution")
        upper.set_ylabel("output channels")
        upper.set_title(f"Widths at a budget of {100 * budgets[0]:g}%")
        for method in METHODS:
            points = []
            for density in budgets:
                here = [r for r in mine if (r["method"], r["density"]) == (method, density)]
                spread = mean_sd([row["robust"] for row in here])
                share = fmean(row["latency"] / row["dense"] for row in here)
                points.append((100 * share, spread.mean, spread.sd))
            lower.errorbar(
                *zip(*points, strict=True), label=method, capsize=2, elinewidth=0.8,
                **look[method].line(),
            )  # fmt: skip
        lower.axhline(most, color=INK, linewidth=1.0, linestyle=(0, (1, 1.5)))
        lower.set_title(f"Robust accuracy (dotted: dense, {most:.1f}%)")
        lower.set_xlim(0, 102)
        lower.set_ylim(60, 90)
        lower.set_xlabel("latency, % of the dense network's")
        lower.set_ylabel("robust accuracy (%),\nupper bound (attack)")
        for axes in (upper, lower):
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        alt = f"Found and uniform widths on {case}, and their robust accuracy over latency."
        return finish(figure, key=f"width-{case}", alt=alt)


def there(out: Path, **wanted: object) -> bool:
    return any(wanted.items() <= row.items() for row in rows(out))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/width"))
    series = [name for name, case in CASES.items() if case.model == "fcn"]
    parser.add_argument("--cases", nargs="+", default=["ecg200"], choices=series)
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.25, 0.1])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", action="store_true", help="only print the tables")
    parser.add_argument("--picture", action="store_true", help="draw docs/pictures/width-CASE.svg")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in () if options.table or options.picture else options.cases:
        task = data(CASES[name].task, options.data_dir)
        for seed in range(options.seeds):
            dense(name, seed, options.out, options.data_dir)
            if not there(options.out, case=name, seed=seed, method="dense"):
                whole(CASES[name], name, task, seed, options.out)
            for density in options.budgets:
                last = {"case": name, "seed": seed, "density": density, "method": METHODS[-1]}
                if not there(options.out, **last):
                    measure(CASES[name], name, task, density, seed, options.out)
    for name in options.cases:
        print(table(rows(options.out), name))
        for one, other in zip(METHODS[::2], METHODS[1::2], strict=True):
            both = [row for row in rows(options.out) if row["method"] in (one, other)]
            print(f"\n{paired(both, name, other)}")
        if options.picture:
            plot = picture(rows(options.out), name)
            (PICTURES / f"{plot.key}.svg").write_text(plot.svg, encoding="utf-8")


if __name__ == "__main__":
    main()
