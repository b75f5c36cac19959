"""What compression changes besides accuracy: which measures move first?

    python -m benchmarks.layerwise --data-dir DATA --out runs/layerwise --keep
    python -m benchmarks.compression --data-dir DATA --networks runs/layerwise --out runs/trust
    python -m benchmarks.compression --out runs/trust --table --picture docs/pictures

Each network that `benchmarks.layerwise --keep` left in NETWORKS is compared with the dense one it
was made of, or whose seed it shares, by all measures of `robustprune trust`. Methods that need no
training are also run here where no network is kept, and the dense networks are compared with
themselves with weights of few bits. Each comparison is a line of results.jsonl, and the same
command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from attacks import PGD, Attack, Square
from benchmarks.compression_picture import picture
from benchmarks.compression_tables import ROUNDED, by_number, direct, first, table
from benchmarks.kept import note, rows
from benchmarks.layerwise import kept, stored
from benchmarks.layerwise_methods import method
from benchmarks.layerwise_networks import CASES, Case, data, dense
from robustprune.deploy import round_weights
from robustprune.measure import Trust, compare_trust, surrogates
from robustprune.run.allocator import keep_freed_memory
from robustprune.tasks import Task

#: what takes seconds, so that it is made here where it is not kept
UNTRAINED = ("ours", "magnitude", "sparsegpt", "wanda")
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02)
BITS = (8, 4, 3, 2)


def compared(case: Case, task: Task, model: nn.Module, network: nn.Module, seed: int) -> Trust:
    """Compare a network with the dense one on the test examples of the case, attacked by PGD, and
    those of images by Square, too."""
    x, y = task.test.batch(slice(case.images))
    attacks: dict[str, Attack] = {
        "pgd": PGD(case.threat, steps=case.judge, step_size=case.threat.eps / 4, seed=seed)
    }
    if case.queries:  # networks of images may hide their gradient
        attacks["square"] = Square(case.threat, queries=case.queries, seed=seed)
    return compare_trust(
        model, network, x, y, attack=attacks, members=task.train.batch(slice(len(y))),
        outside=surrogates(x, seed=seed, bounds=task.bounds), seed=seed, batch_size=500,
    )  # fmt: skip


def asked(options: argparse.Namespace, seed: int) -> Iterator[tuple[str, float]]:
    """Each method and its level: the density, or the number of bits."""
    beginning = f"{options.case}-{seed}-"
    files = sorted((options.networks / "networks").glob(f"{beginning}*.safetensors"))
    found = [path.stem.removeprefix(beginning).rpartition("-") for path in files]
    yield from ((what.replace("_", " "), float(density)) for what, _, density in found)
    yield from ((what, density) for what in options.untrained for density in options.densities)
    yield from ((ROUNDED, float(bits)) for bits in options.bits)


def made(
    options: argparse.Namespace, task: Task, model: nn.Module, seed: int, what: str, level: float
) -> nn.Module:
    """The compressed network, from its file or made now."""
    case = CASES[options.case]
    if what == ROUNDED:
        return round_weights(model, int(level)).eval()
    path = kept(options.networks, options.case, seed, what, level)
    if path.exists():
        return stored(path, case, task)
    return method(what)(case, task, model, level, seed).model.eval()


def run(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    case = CASES[options.case]
    done = {(r["case"], r["seed"], r["method"], r["level"]) for r in rows(options.out)}
    task = data(case.task, options.data_dir)
    for seed in range(options.seeds or case.seeds):
        model = dense(options.case, seed, options.networks, options.data_dir)
        for what, level in dict.fromkeys(asked(options, seed)):
            if (options.case, seed, what, level) in done:
                continue
            started = time.process_time()
            torch.manual_seed(seed)
            network = made(options, task, model, seed, what, level)
            found = compared(case, task, model, network, seed)
            row = {"case": options.case, "seed": seed, "method": what, "level": level}
            note(options.out, row | figures(found) | {"seconds": time.process_time() - started})


def figures(found: Trust) -> dict[str, object]:
    """The measures of both networks, and how many examples they answer differently."""
    changed = {}
    for one in found.changes:
        figure = asdict(one)
        changed[figure.pop("name")] = figure
    return {
        "n": found.n,
        "churn": found.disagreement.churn.value,
        "lost": found.disagreement.lost,
        "won": found.disagreement.won,
        "changes": changed,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--networks", type=Path, default=Path("runs/layerwise"))
    parser.add_argument("--out", type=Path, default=Path("runs/trust"))
    parser.add_argument("--case", default="ecg200", choices=list(CASES))
    parser.add_argument("--seeds", type=int, help="how many; default what the case says")
    parser.add_argument("--only", type=int, help="the tables are of the networks of this seed")
    parser.add_argument("--untrained", nargs="*", default=["ours", "magnitude"], choices=UNTRAINED)
    parser.add_argument("--densities", nargs="*", type=float, default=list(DENSITIES))
    parser.add_argument("--bits", nargs="*", type=int, default=list(BITS))
    parser.add_argument("--table", action="store_true", help="only print the tables")
    parser.add_argument("--picture", type=Path, help="the folder that gets the picture")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    if not options.table:
        run(options)
    found = [
        row
        for row in rows(options.out)
        if row["case"] == options.case and options.only in (None, row["seed"])
    ]
    for part in by_number(found):
        print(f"{table(part)}\n\n{first(part)}\n\n{direct(part)}\n")
    if options.picture is not None:
        plot = picture(found, options.case)
        (options.picture / f"{plot.key}.svg").write_text(plot.svg, encoding="utf-8")


if __name__ == "__main__":
    main()
