"""Certified accuracy on MNIST: a small network trained with CROWN-IBP, dense and pruned.

    python -m benchmarks.certified_mnist --data-dir DATA

Trains a convolutional network of 166,406 parameters on an upper bound of its worst-case loss, keeps
a fifth of its weights by magnitude, trains on under the mask with the same objective, and certifies
all 10,000 test images at eps 0.1 and 0.2 with CROWN-IBP bounds (float64, rounding paid for). The
epoch is the last; the test set chooses nothing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from robustprune.bounds import certified
from robustprune.measure import evaluate
from robustprune.minmax import Certified, OptimizerSpec, train
from robustprune.run.allocator import keep_freed_memory
from robustprune.search import finetune_ticket, prune_one_shot
from robustprune.tasks import BatchLoader, load_task

WARMUP = 6.0  # epochs in which eps grows; only they pay for CROWN's backward pass
SPEC = OptimizerSpec(name="adam", lr=1e-3, weight_decay=0.0, schedule="cosine")


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def row(name: str, kept: int, model: nn.Module, x: Tensor, y: Tensor) -> str:
    """One line of the table."""
    cells = []
    begin = time.perf_counter()
    for eps in (0.1, 0.2):
        threat = ThreatModel("linf", eps, (0.0, 1.0))
        proven = certified(model, x, y, threat, method="crown-ibp", batch_size=1000)
        attack = PGD(threat, steps=40, step_size=eps / 20, seed=0)
        outcome = evaluate(model, x[:1000], y[:1000], {"pgd": attack}, batch_size=500)
        assert not bool((proven[:1000].cpu() & ~outcome.robust["pgd"].cpu()).any())
        attacked = outcome.robust["pgd"].double().mean()
        cells.append(f"{proven.double().mean():.2%} | {attacked:.1%}")
    seconds = time.perf_counter() - begin
    clean = (model(x).argmax(1) == y).double().mean()
    print(f"certifying {name} twice and attacking 1,000 images: {seconds:.0f} s", flush=True)
    return f"| {name} | {kept:,} | {clean:.2%} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--train-eps", type=float, default=0.22)
    parser.add_argument("--density", type=float, default=0.2)
    options = parser.parse_args()
    keep_freed_memory()
    task = load_task("mnist", data_dir=options.data_dir)
    x, y = task.test.x, task.test.y
    threat = ThreatModel("linf", options.train_eps, task.bounds)
    torch.manual_seed(0)
    model = network()
    begin = time.perf_counter()

    def objective(warmup: float) -> Certified:
        return Certified(threat, method="crown-ibp", warmup=warmup, kappa=0.0)

    epochs, retrain = options.epochs, options.epochs // 2
    loader = BatchLoader(task.train, 128, shuffle=True, seed=0)
    train(model, loader, objective(WARMUP), optimizer=SPEC, epochs=epochs)
    model.eval()
    print(f"training: {time.perf_counter() - begin:.0f} s", flush=True)
    parameters = sum(p.numel() for p in model.parameters())
    rows = [row("dense", parameters, model, x, y)]
    print(rows[0], flush=True)
    ticket = prune_one_shot(model, density=options.density, allocate="global")
    ticket = finetune_ticket(ticket, loader, objective(0.0), optimizer=SPEC, epochs=retrain)
    ticket.model.eval()
    rows.append(row(f"{options.density:.0%} kept", ticket.masks.kept, ticket.model, x, y))
    print("| network | weights | clean | certified 0.1 | PGD-40 | certified 0.2 | PGD-40 |")
    print("| --- " * 7 + "|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
