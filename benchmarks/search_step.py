"""Cost of a scratch-ticket search step against a dense adversarial training step.

    OMP_NUM_THREADS=2 python -m benchmarks.search_step --repeats 9

Same network, batch and attack (PGD-7). One repetition trains `--steps` steps of each, one after
the other, through the project's own loop; the ratio is taken within a repetition, so that a busy
machine slows both. Prints the median, least and greatest ratio, and where the difference goes.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
from torch import nn

from attacks import PGD, ThreatModel
from robustprune.minmax import Adversarial, OptimizerSpec, train
from robustprune.models import ModelInputs, build_model
from robustprune.search.popup import ScoreTopK, random_scores
from robustprune.sparsity import maskable_layers

CASES = {
    "fcn": (ModelInputs((1, 96), 2), {"widths": [64, 128, 64]}, 25),
    "lenet": (ModelInputs((1, 28, 28), 10), {"width": 8}, 128),
    "preact_resnet18": (ModelInputs((3, 32, 32), 10), {}, 32),
}


def seconds(model: nn.Module, batches: list, moving: list, objective: Adversarial) -> float:
    started = time.perf_counter()
    spec = OptimizerSpec(lr=0.01)
    train(model, batches, objective, optimizer=spec, epochs=1, parameters=moving, quiet=True)
    return time.perf_counter() - started


def compare(name: str, *, steps: int, repeats: int, density: float, allocate: str) -> None:
    inputs, settings, batch = CASES[name]
    torch.manual_seed(0)
    dense = build_model(name, inputs, options=settings)
    sparse = copy.deepcopy(dense).requires_grad_(False)
    layers = maskable_layers(sparse)
    constraint = ScoreTopK(
        layers,
        density=density,
        pattern="element",
        allocate=allocate,  # type: ignore[arg-type]
        scores=random_scores(layers, generator=torch.Generator().manual_seed(0)),
    )
    x = torch.rand(steps * batch, *inputs.input_shape)
    y = torch.randint(inputs.num_classes, (len(x),))
    batches = list(zip(x.split(batch), y.split(batch), strict=True))
    objective = Adversarial(PGD(ThreatModel("linf", 0.1), steps=7))
    dense_parameters = list(dense.parameters())
    seconds(dense, batches[:2], dense_parameters, objective)
    seconds(sparse, batches[:2], constraint.parameters(), objective)
    ratios, dense_times = [], []
    for _ in range(repeats):
        one = seconds(dense, batches, dense_parameters, objective)
        two = seconds(sparse, batches, constraint.parameters(), objective)
        ratios.append(two / one)
        dense_times.append(one / steps)
    started = time.perf_counter()
    for _ in range(20):
        for popup in constraint.popups.values():
            popup.mask()
    top_k = (time.perf_counter() - started) / 20
    step = statistics.median(dense_times)
    print(
        f"| {name} | {batch} | {1e3 * step:.1f} ms | {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f}–{max(ratios):.3f}) | {1e3 * top_k:.2f} ms, {top_k / step:.1%} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--density", type=float, default=0.5)
    parser.add_argument("--allocate", default="layer", choices=["layer", "global"])
    options = parser.parse_args()
    print("| network | batch | dense step | search / dense, median (range) | top-k alone |")
    print("| --- | --- | --- | --- | --- |")
    for name in options.models:
        compare(
            name,
            steps=options.steps,
            repeats=options.repeats,
            density=options.density,
            allocate=options.allocate,
        )


if __name__ == "__main__":
    main()
