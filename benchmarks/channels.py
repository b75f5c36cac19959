"""Half of the channels removed, by `prune_channels` and `slim` and by Torch-Pruning, side by side.

    OMP_NUM_THREADS=1 python -m benchmarks.channels --data-dir data

The depthwise-separable network is trained on 6,000 images of MNIST for two epochs, pruned, and
trained for one more epoch, in three seeds; the other networks have random weights. Latencies are
medians of 15 turns on a batch of 8.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
import torch_pruning
import torchvision
from torch import Tensor, nn

from robustprune.deploy import prune_channels, slim
from robustprune.measure import Cost, compare_cost
from robustprune.minmax import Natural, OptimizerSpec, train
from robustprune.search import finetune_ticket
from robustprune.tasks import BatchLoader, load_task

OPTIMIZER = OptimizerSpec(name="adamw", lr=3e-3, weight_decay=1e-4)
GENTLE = OptimizerSpec(name="adamw", lr=1e-3, weight_decay=1e-4)


def separable(ins: int, outs: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(ins, ins, 3, stride, 1, groups=ins, bias=False), nn.BatchNorm2d(ins), nn.ReLU(),
        nn.Conv2d(ins, outs, 1, bias=False), nn.BatchNorm2d(outs), nn.ReLU(),
    ]  # fmt: skip


def depthwise(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        *separable(16, 32, 1), *separable(32, 64, 2), *separable(64, 64, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def by_torch_pruning(model: nn.Module, x: Tensor) -> nn.Module:
    small = copy.deepcopy(model)
    last = [layer for layer in small.modules() if isinstance(layer, nn.Linear)][-1]
    torch_pruning.pruner.MagnitudePruner(
        small,
        x,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[last],
    ).step()
    return small


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == y).float().mean())


def trained(data_dir: Path, seed: int) -> dict[str, float]:
    """Return the accuracy on 2,000 test images, dense and with half of the channels."""
    task = load_task("mnist", data_dir=data_dir)
    train_x, train_y = task.train.x[:6000], task.train.y[:6000]
    x, y = task.test.x[:2000], task.test.y[:2000]
    loader = BatchLoader(type(task.train)(train_x, train_y), 64, shuffle=True, seed=seed)
    torch.manual_seed(seed)
    model = depthwise(1)
    train(model, loader, Natural(), epochs=2, optimizer=OPTIMIZER, quiet=True)
    rest = {"epochs": 1, "optimizer": GENTLE, "quiet": True}
    ticket = prune_channels(model, x[:2], density=0.5)
    tuned = finetune_ticket(ticket, loader, Natural(), mode="inherit", **rest)
    ours = slim(tuned.model.eval(), None, x[:2])
    theirs = by_torch_pruning(model.eval(), x[:2])
    train(theirs.train(), loader, Natural(), **rest)
    found = {"dense": model, "slim": ours, "Torch-Pruning": theirs}
    return {name: accuracy(network, x, y) for name, network in found.items()}


def row(name: str, cost: Cost, dense: Cost, right: str) -> str:
    return (
        f"| {name} | {cost.name} | {cost.parameters:,} | {cost.macs:,} | "
        f"{1e3 * cost.latency:.1f} ms | {dense.latency / cost.latency:.2f} | {right} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    options = parser.parse_args()
    runs = [trained(options.data_dir, seed) for seed in range(3)]
    print("| network | form | parameters | MACs | latency | dense / this | accuracy, 3 seeds |")
    print("| --- | --- | --: | --: | --: | --: | --: |")
    torch.manual_seed(0)
    for name, model, shape in (
        ("depthwise", depthwise(1), (8, 1, 28, 28)),
        ("resnet18", torchvision.models.resnet18(num_classes=10), (8, 3, 64, 64)),
        ("mobilenet_v2", torchvision.models.mobilenet_v2(num_classes=10), (8, 3, 64, 64)),
    ):
        x = torch.randn(shape)
        model.eval()
        forms = {
            "dense": model,
            "slim": slim(prune_channels(model, x, density=0.5).model, None, x),
            "Torch-Pruning": by_torch_pruning(model, x),
        }
        dense, *rest = compare_cost(forms, x, repeats=15)
        for cost in (dense, *rest):
            figures = [100 * run[cost.name] for run in runs] if name == "depthwise" else []
            print(row(name, cost, dense, ", ".join(f"{value:.1f}%" for value in figures)))


if __name__ == "__main__":
    main()
