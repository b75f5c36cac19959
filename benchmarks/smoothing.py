"""Throughput of randomised smoothing beside the bare forward pass.

    OMP_NUM_THREADS=2 python -m benchmarks.smoothing

The same number of inputs through the same network, in batches of the same size: certified, and
nothing but passed forward (of one batch of noise, made beforehand). Interleaved; the median of the
repetitions' ratios. LeNet on one image (1, 28, 28), FCN on one series of 96, a pre-activation
ResNet-18 of width 16 on one image (3, 32, 32).
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from robustprune.certify import certify
from robustprune.certify.noise import as_many
from robustprune.models import build_model
from robustprune.models.build import ModelInputs
from robustprune.run.allocator import keep_freed_memory

CASES = {
    "lenet": ((1, 28, 28), 10, {}, 20_000),
    "fcn": ((1, 96), 2, {"widths": [64, 128, 64]}, 10_000),
    "preact_resnet18": ((3, 32, 32), 10, {"width": 16}, 2_000),
}


@torch.no_grad()
def bare(model: nn.Module, batch: torch.Tensor, samples: int) -> float:
    """Seconds of forward passes on `samples` inputs."""
    started = time.perf_counter()
    for first in range(0, samples, len(batch)):
        model(batch[: samples - first])
    return time.perf_counter() - started


def smoothed(model: nn.Module, x: torch.Tensor, samples: int) -> float:
    """Seconds of a certificate of `samples` samples, selection included."""
    started = time.perf_counter()
    certify(model, x, sigma=0.01, n0=samples // 100, n=samples - samples // 100)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    keep_freed_memory()
    print("| network | samples | throughput: smoothing / bare forward | samples a second |")
    print("| --- | --- | --- | --- |")
    for name, (shape, classes, settings, samples) in CASES.items():
        torch.manual_seed(0)
        model = build_model(name, ModelInputs(shape, classes), options=settings).eval()
        x = torch.rand(1, *shape)
        batch = x + 0.01 * torch.randn(min(samples, as_many(x)), *shape)
        pairs = [
            (bare(model, batch, samples), smoothed(model, x, samples))
            for _ in range(options.repeats + 1)
        ][1:]
        ratios = [forward / whole for forward, whole in pairs]
        print(
            f"| {name} | {samples:,} | {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f}–{max(ratios):.3f}) | "
            f"{samples / statistics.median(whole for _, whole in pairs):,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
