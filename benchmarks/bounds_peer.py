"""Margins and time of our bounds beside auto_LiRPA's, on the same networks and inputs.

    PYTHONPATH=.:PATH/TO/auto_LiRPA OMP_NUM_THREADS=1 python -m benchmarks.bounds_peer

github.com/Verified-Intelligence/auto_LiRPA has to lie beside the project. float64 on both sides;
the label is the network's own answer, and ε such that most margins are positive. One line a network
and method: the mean of the least margin of each example, ours and theirs, the least and the median
ratio over examples, and the time of both (the best of some repetitions, tracing included).
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attacks import ThreatModel
from robustprune.bounds import margin_bounds

STEPS = 20  # of α-CROWN


class ResidualBlock(nn.Module):
    """Two convolutions with batch norm and a skip connection, between a stem and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.first, self.norm1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 7 * 7, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        inner = torch.relu(self.norm1(self.first(x)))
        x = torch.relu(x + self.norm2(self.second(inner)))
        logits: Tensor = self.head(torch.flatten(x, 1))
        return logits


class Tokens(nn.Module):
    """Self-attention between the rows of an image, and a mean over them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(14, 8), nn.Linear(8, 10)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1, 2))
        scores = torch.matmul(self.query(x), self.key(x).transpose(1, 2)) / 8**0.5
        x = x + torch.matmul(torch.softmax(scores, dim=-1), self.value(x))
        logits: Tensor = self.head(x.mean(1))
        return logits


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...], float]]:
    """Name → network with random weights, shape of an input, ε in L∞."""
    torch.manual_seed(0)
    mlp = nn.Sequential(
        nn.Flatten(), nn.Linear(196, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(),
        nn.Linear(100, 10),
    )  # fmt: skip
    cnn = nn.Sequential(
        nn.Conv2d(1, 8, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(8, 16, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 3 * 3, 50), nn.ReLU(), nn.Linear(50, 10),
    )  # fmt: skip
    tokens = Tokens()
    block = ResidualBlock()
    block(torch.rand(64, 1, 14, 14))  # running statistics
    return {
        "MLP 196-100-100-10": (mlp, (1, 14, 14), 0.004),
        "CNN, 2 convolutions": (cnn, (1, 14, 14), 0.005),
        "ResNet block": (block, (1, 14, 14), 0.005),
        "attention": (tokens, (1, 14, 14), 0.002),
    }


def fastest(call: Callable[[], Tensor], repeats: int) -> tuple[Tensor, float]:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - started)
    return result.detach(), best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="a part of the networks' names")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_default_dtype(torch.float64)
    print("| network | method | least margin, ours | auto_LiRPA | ratio, least and median | time |")
    print("| --- " * 6 + "|")
    for name, (model, shape, eps) in networks().items():
        if options.only not in name:
            continue
        x = torch.rand(options.examples, *shape)
        for method in ("crown", "alpha-crown"):
            print(f"| {name} | {method} | {compare(model, x, eps, method, options.repeats)} |")


def compare(model: nn.Module, x: Tensor, eps: float, method: str, repeats: int) -> str:
    """Cells of one line."""
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    model = model.double().eval()
    y = model(x).argmax(1)
    others = torch.stack([torch.arange(10)[torch.arange(10) != label] for label in y])
    rows = torch.eye(10)[y][:, None] - torch.eye(10)[others]

    def ours() -> Tensor:
        threat = ThreatModel("linf", eps)
        return margin_bounds(model, x, y, threat, method=method, steps=STEPS).gather(1, others)

    def theirs() -> Tensor:
        bounded = BoundedModule(model, x, verbose=False)
        bounded.set_bound_opts({"optimize_bound_args": {"iteration": STEPS, "lr_alpha": 0.1}})
        ball = BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), eps=eps))
        spelt = {"crown": "CROWN", "alpha-crown": "alpha-CROWN"}[method]
        return bounded.compute_bounds(x=(ball,), C=rows, method=spelt, bound_upper=False)[0]

    (mine, own_time), (peer, peer_time) = fastest(ours, repeats), fastest(theirs, repeats)
    a, b = mine.amin(1), peer.amin(1)
    ratio = (a / b)[b > 0]
    return (
        f"{a.mean():.6f} | {b.mean():.6f} | {ratio.min():.6f}, {ratio.median():.6f} "
        f"({len(ratio)} of {len(a)} positive) | {own_time:.2f} s / {peer_time:.2f} s"
    )


if __name__ == "__main__":
    main()
