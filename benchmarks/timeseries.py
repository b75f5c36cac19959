"""Low-data time series: natural FCN, adversarial training on all or on chosen examples, pruning.

    python -m benchmarks.timeseries --data-dir DATA --out runs/timeseries
    python -m benchmarks.timeseries --out runs/timeseries --table

Every result is a line of OUT/results.jsonl as soon as it is there, and is not repeated; --table
prints what is there so far. ECG200 and SonyAIBORobotSurface1 are part of the package, the other
sets come from DATA/UCR. Nothing is held out: 20 to 100 training examples leave no validation split,
so candidates are valued by the attacked training examples ("clean": by the clean ones) and the last
epoch is the result. L∞, ε = 0.1 in z-normalised units, PGD-20 (step ε/4, one random start).

Parts, in this order for each seed:
    natural   FCN (128, 256, 128) on clean examples
    training  FCN (32, 64, 32), PGD-7, on all or on half of the adversarial examples of each class,
              chosen anew every 10 epochs; the others are trained on clean
    pruning   FCN (64, 128, 64), 90% sparsity, with both trainings
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from attacks import PGD, ThreatModel
from benchmarks.timeseries_tables import tables, write_plots
from robustprune.measure import evaluate
from robustprune.minmax import Adversarial, Natural, Objective, OptimizerSpec, train
from robustprune.models import build_model
from robustprune.pipeline.selection import chooser
from robustprune.run.allocator import keep_freed_memory
from robustprune.run.checkpoint import write_atomically
from robustprune.run.settings import SelectionSection
from robustprune.search import (
    find_lottery_ticket,
    finetune_ticket,
    prune_admm,
    prune_scores,
)
from robustprune.selection import Selective
from robustprune.tasks import BatchLoader, Task, load_task

THREAT = ThreatModel("linf", 0.1)
INNER = PGD(THREAT, steps=7, step_size=0.025)
JUDGE = PGD(THREAT, steps=20, step_size=0.025, seed=0)
POOL = PGD(THREAT, steps=20, step_size=0.025)
WIDTHS = {"natural": [128, 256, 128], "training": [32, 64, 32], "pruning": [64, 128, 64]}
#: by what adversarial training on all is to be beaten; "-clean": valued by the clean examples
METHODS = (
    "random",
    "loss",
    "boundary",
    "tracin",
    "knn_shapley",
    "data_shapley",
    "data_shapley-clean",
)
CHOSEN = "data_shapley"  # with which the pruning part trains
SEARCHES = ("hydra", "harp", "admm", "lottery")
PRUNED = ("ecg200", "sony_aibo_1")


@dataclass(frozen=True)
class Case:
    """A data set with the training that suits its size."""

    name: str
    task: str
    batch_size: int
    epochs: int
    weight_decay: float
    natural_epochs: int

    def optimizer(self, lr: float = 0.05) -> OptimizerSpec:
        return OptimizerSpec(lr=lr, weight_decay=self.weight_decay)


CASES = {
    case.name: case
    for case in (
        Case("ECG200", "ecg200", 25, 60, 5e-3, 100),
        Case("SonyAIBORobotSurface1", "sony_aibo_1", 10, 100, 5e-4, 200),
        Case("SonyAIBORobotSurface2", "ucr:SonyAIBORobotSurface2", 10, 100, 5e-4, 200),
        Case("ECGFiveDays", "ucr:ECGFiveDays", 10, 100, 5e-4, 200),
    )
}


@dataclass(frozen=True)
class Setting:
    """One data set with one seed."""

    case: Case
    task: Task
    seed: int

    def loader(self) -> BatchLoader:
        size = self.case.batch_size
        alone = len(self.task.train) % size == 1
        return BatchLoader(self.task.train, size, shuffle=True, seed=self.seed, drop_last=alone)

    def network(self, part: str) -> nn.Module:
        torch.manual_seed(self.seed)
        return build_model("fcn", self.task, options={"widths": WIDTHS[part]})

    def robust(self, method: str) -> tuple[Objective, BatchLoader]:
        """Adversarial training on all ("all") or on the method's half of each class."""
        loader = self.loader()
        if method == "all":
            return Adversarial(INNER), loader
        name, _, clean = method.partition("-")
        section = SelectionSection(
            method=name,  # type: ignore[arg-type]
            keep=0.5,
            values="clean" if clean else "attacked",
        )
        choose = chooser(section, THREAT, POOL, None, seed=self.seed)
        split = self.task.train
        objective = Selective(
            loader, INNER, choose, x=split.x, y=split.y, pool_attack=POOL, start=10, every=10
        )
        return objective, loader

    def trained(self, part: str, method: str) -> nn.Module:
        model, case = self.network(part), self.case
        if method == "natural":
            train(
                model,
                self.loader(),
                Natural(),
                optimizer=case.optimizer(),
                epochs=case.natural_epochs,
                quiet=True,
            )
        else:
            objective, loader = self.robust(method)
            train(
                model,
                loader,
                objective,
                optimizer=case.optimizer(),
                epochs=case.epochs,
                quiet=True,
            )
        return model


def pruned(setting: Setting, method: str, search: str, dense: Callable[[], nn.Module]) -> nn.Module:
    """The network of the search at 90% sparsity, its kept weights trained."""
    case = setting.case
    objective, loader = setting.robust(method)
    common = {"objective": objective, "density": 0.1, "quiet": True}
    gentle = OptimizerSpec(lr=0.01, weight_decay=1e-4)
    if search == "lottery":
        start = setting.network("pruning")
        return find_lottery_ticket(
            start, loader, rounds=2, epochs=case.epochs, optimizer=case.optimizer(),
            allocate="global", **common,
        ).model  # fmt: skip
    if search == "admm":
        ticket = prune_admm(
            dense(), loader, epochs=case.epochs, every=5, rho=1e-2, optimizer=gentle, **common
        )
    else:
        scores = OptimizerSpec(lr=0.1, weight_decay=1e-4)
        ticket = prune_scores(
            dense(), loader, method=search, epochs=case.epochs // 2, optimizer=scores, **common
        )
    objective, loader = setting.robust(method)
    settings = {"optimizer": case.optimizer(), "epochs": case.epochs, "quiet": True}
    return finetune_ticket(ticket, loader, objective, **settings).model


def jobs(
    setting: Setting, options: argparse.Namespace
) -> Iterator[tuple[str, str, Callable[[], nn.Module]]]:
    """(part, method, what makes the network) of one seed."""
    if "natural" in options.parts:
        yield "natural", "natural", partial(setting.trained, "natural", "natural")
    if "training" in options.parts:
        for method in ("natural", "all", *METHODS):
            yield "training", method, partial(setting.trained, "training", method)
    if "pruning" in options.parts and setting.task.name in PRUNED:
        for method in options.trainings:
            # trained once, and only where a result that needs it is missing
            dense = cache(partial(setting.trained, "pruning", method))
            yield "pruning", f"{method} dense", dense
            for search in options.searches:
                yield (
                    "pruning",
                    f"{method} {search}",
                    partial(pruned, setting, method, search, dense),
                )


def measured(setting: Setting, model: nn.Module) -> dict[str, float | int]:
    test = setting.task.test
    outcome = evaluate(model, test.x, test.y, {"pgd20": JUDGE}, batch_size=256)
    clean, robust = outcome.clean.float().mean(), outcome.worst.float().mean()
    return {"clean": float(clean), "pgd20": float(robust), "n": len(test)}


def run(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.jsonl"
    if file.exists():  # a last line that was cut short would spoil the next
        write_atomically(file, "".join(json.dumps(row) + "\n" for row in read(file)))
    done = {(r["part"], r["set"], r["seed"], r["method"]) for r in read(file)}
    for seed in range(options.first_seed, options.seeds):
        for name in options.sets:
            case = CASES[name]
            task = load_task(case.task, data_dir=options.data_dir)
            setting = Setting(case, task, seed)
            for part, method, make in jobs(setting, options):
                if (part, name, seed, method) in done:
                    continue
                started = time.monotonic()
                torch.manual_seed(seed)
                figures = measured(setting, make())
                row = {"part": part, "set": name, "seed": seed, "method": method, **figures}
                row["seconds"] = round(time.monotonic() - started, 1)
                with open(file, "a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")


def read(file: Path) -> list[dict]:
    """The results so far; a last line cut short by a kill is left out."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", default=list(CASES), choices=list(CASES))
    parts = ("natural", "training", "pruning")
    parser.add_argument("--parts", nargs="+", default=list(parts), choices=parts)
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=SEARCHES)
    parser.add_argument(
        "--trainings", nargs="+", default=["all", CHOSEN], choices=("all", *METHODS), help="pruned"
    )
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10, help="the seed after the last")
    parser.add_argument("--out", type=Path, default=Path("runs/timeseries"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--table", action="store_true", help="only print the tables")
    options = parser.parse_args()
    keep_freed_memory()
    if not options.table:
        run(options)
    rows = read(options.out / "results.jsonl")
    print(tables(rows))
    for path in write_plots(rows, options.out):
        print(f"\n{path}")


if __name__ == "__main__":
    main()
