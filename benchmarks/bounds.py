"""Certified radii on ECG200: how far each method of `robustprune.bounds` gets, and what it costs.

    OMP_NUM_THREADS=1 python -m benchmarks.bounds --examples 20

Trains the FCN (64, 128, 64) for 25 epochs, once on clean examples and once with CROWN-IBP margins
at ε = 0.02, and prints for each the median distance of the nearest adversarial example found and,
by method, the median certified radius and the seconds for all examples. With --precision it prints
instead which share of its radius float32 costs: 1 − r/r', r' that of the same weights in float64.
"""

from __future__ import annotations

import argparse
import copy
import time

import torch
from torch import Tensor, nn

from attacks import ThreatModel, minimal_perturbation
from robustprune.bounds import METHODS, certified_radius
from robustprune.minmax import Certified, Natural, Objective, OptimizerSpec, train
from robustprune.models import build_model
from robustprune.tasks import BatchLoader, Task, load_task

EPS, EPOCHS = 0.02, 25


def trained(task: Task, objective: Objective) -> nn.Module:
    torch.manual_seed(0)
    model = build_model("fcn", task, options={"widths": [64, 128, 64]})
    spec = OptimizerSpec(name="adam", lr=1e-3, weight_decay=0.0, schedule="constant")
    loader = BatchLoader(task.train, 25, shuffle=True, seed=0)
    train(model, loader, objective, optimizer=spec, epochs=EPOCHS, quiet=True)
    return model.eval()


def cost_of_float32(model: nn.Module, x: Tensor, y: Tensor) -> str:
    """Median and largest of 1 − r/r' over the examples that are certified, by CROWN-IBP."""
    single = certified_radius(model, x, y, method="crown-ibp", rounds=30)
    finer = copy.deepcopy(model).double()
    double = certified_radius(finer, x.double(), y, method="crown-ibp", rounds=30)
    share = (1 - single / double)[double > 0]
    return f"{share.median():.1e} | {share.max():.1e} (of {double[double > 0][share.argmax()]:.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=8, help="values of eps tried for a radius")
    parser.add_argument("--precision", action="store_true", help="what float32 costs")
    options = parser.parse_args()
    task = load_task("ecg200")
    x, y = task.test.x[: options.examples], task.test.y[: options.examples]
    warmup = 0.6 * EPOCHS
    objectives = {
        "natural": Natural(),
        f"crown-ibp, eps = {EPS}": Certified(
            ThreatModel("linf", EPS), method="crown-ibp", warmup=warmup, kappa=0.3
        ),
    }
    if options.precision:
        print("| trained | cost of float32, median | largest |\n| --- | --- | --- |")
        for name, objective in objectives.items():
            print(f"| {name} | {cost_of_float32(trained(task, objective), x, y)} |", flush=True)
        return
    print(f"| trained | clean | attack finds r* | {' | '.join(METHODS)} |")
    print("| --- " * (3 + len(METHODS)) + "|")
    for name, objective in objectives.items():
        model = trained(task, objective)
        clean = (model(task.test.x).argmax(1) == task.test.y).double().mean()
        upper = minimal_perturbation(model, x, y).r
        cells = []
        for method in METHODS:
            begin = time.perf_counter()
            lower = certified_radius(model, x, y, method=method, rounds=options.rounds)
            seconds = time.perf_counter() - begin
            assert bool((lower <= upper).all()), "a certified radius beyond an adversarial example"
            cells.append(f"{lower.median():.4f} ({seconds:.1f} s)")
        print(f"| {name} | {clean:.0%} | {upper.median():.3f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
