"""Certified radii on ECG200: how far each method of `robustprune.bounds` gets, and what it costs.

    OMP_NUM_THREADS=1 python -m benchmarks.bounds --examples 20

Trains the FCN (64, 128, 64) for 25 epochs, once on clean examples and once with CROWN-IBP margins
at ε = 0.02, and prints for each the median distance of the nearest adversarial example found and,
by method, the median certified radius and the seconds for all examples. With --precision it prints
instead which share of its radius float32 costs: 1 − r/r', r' that of the same weights in float64.

With --search it compares the search for a radius by CROWN with bisection in 12 rounds, with every
neuron bounded backward: seconds of the processor on one thread, and the ratio of the radii. With
--resnet18 it prints the seconds of CROWN for one example of torchvision's resnet18 at 32 × 32.
"""

from __future__ import annotations

import argparse
import copy
import time
from unittest.mock import patch

import torch
import torchvision
from torch import Tensor, nn

from attacks import ThreatModel, minimal_perturbation
from robustprune.bounds import METHODS, certified, certified_radius, margin_bounds, margins
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


def bisected(model: nn.Module, x: Tensor, y: Tensor, *, rounds: int = 12) -> Tensor:
    """Radii by doubling and bisection, with a pass for every unstable neuron in every round."""
    lower, upper = torch.zeros(len(x)).double(), torch.full((len(x),), torch.inf).double()
    upper[model(x).argmax(1) != y] = 0.0
    trial = linearised(model, x, y)
    backward = patch.object(margins, "pays", lambda *_: False)
    with backward, patch.object(margins, "last_rectifier", lambda _: None):
        for _ in range(rounds):
            rows = (lower < upper).nonzero().flatten()
            ball = ThreatModel("linf", trial[rows])
            sure = certified(model, x[rows], y[rows], ball)
            lower[rows[sure]], upper[rows[~sure]] = trial[rows[sure]], trial[rows[~sure]]
            trial = torch.where(upper.isinf(), 2 * lower, (lower + upper) / 2)
    return lower


def linearised(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The distance to the boundary of the linearised network of two classes."""
    x = x.clone().requires_grad_()
    logits = model(x)
    lead = logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])
    (slope,) = torch.autograd.grad(lead.sum(), x)
    return (lead[:, 0].abs() / slope.flatten(1).abs().sum(1)).detach().double()


def compare_searches(models: dict[str, nn.Module], x: Tensor, y: Tensor) -> None:
    print("| trained | bisection | search | bisection / search | radii, search / bisection |")
    print("| --- | --- | --- | --- | --- |")
    for name, model in models.items():
        times, radii = [], []
        for search in (bisected, certified_radius):
            begin = time.process_time()
            radii.append(search(model, x, y))
            times.append(time.process_time() - begin)
        ratio = (radii[1] / radii[0])[radii[0] > 0]
        spread = f"{ratio.median():.3f} ({ratio.min():.3f}–{ratio.max():.3f})"
        cells = f"{times[0]:.1f} s | {times[1]:.1f} s | {times[0] / times[1]:.1f} | {spread}"
        print(f"| {name} | {cells} |", flush=True)


def resnet18() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).eval()
    x = torch.rand(1, 3, 32, 32)
    y = model(x).argmax(1)
    for method in ("crown-ibp", "crown"):
        begin = time.process_time()
        margin = margin_bounds(model, x, y, ThreatModel("linf", 1e-4), method=method).amin()
        seconds = time.process_time() - begin
        print(f"resnet18, {method}: margin {float(margin):.4g}, {seconds:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=8, help="values of eps tried for a radius")
    parser.add_argument("--precision", action="store_true", help="what float32 costs")
    parser.add_argument("--search", action="store_true", help="the search against bisection")
    parser.add_argument("--resnet18", action="store_true", help="one example of resnet18")
    options = parser.parse_args()
    if options.resnet18:
        resnet18()
        return
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
    if options.search:
        compare_searches({name: trained(task, o) for name, o in objectives.items()}, x, y)
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
