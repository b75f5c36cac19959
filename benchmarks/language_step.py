"""Cost of a step of the mask search in passes of the plain model.

    python -m benchmarks.language_step --data-dir DATA --repeats 7

One pass is a forward and a backward pass of MiniLM to all its weights on a batch of SST-2, as plain
fine-tuning makes them (without the optimizer's own step). A step of the search holds K passes of
the inner attack, one outer pass through the gates, the expected L0 norm and AdamW on the scores.
Passes and steps are timed in turns, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from attacks import PGD, ThreatModel
from robustprune.minmax import Adversarial, OptimizerSpec, train
from robustprune.models import SentenceTokenizer, language_model
from robustprune.packing import words
from robustprune.search.learned_gates import HardConcreteGates
from robustprune.sparsity import gate_groups
from robustprune.tasks import BatchLoader, text_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="sst2_sample", help="sst2 needs --data-dir")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 5], help="K")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    task = text_task(options.task, SentenceTokenizer(max_length=64), data_dir=options.data_dir)
    loader = BatchLoader(task.train, options.batch, shuffle=True, seed=0, drop_last=True)
    batches = [batch for batch, _ in zip(loader, range(6), strict=False)]
    torch.manual_seed(0)
    plain = language_model(task.input_shape, task.num_classes).train()
    network = language_model(task.input_shape, task.num_classes).requires_grad_(False)
    groups = gate_groups(network, "weight", dense=("last",))
    gates = HardConcreteGates(network, groups, density=0.7, penalty=0.5, kept=0.9, seed=0)
    spec = OptimizerSpec(name="adamw", lr=0.1, weight_decay=1e-6)

    def passes() -> float:
        started = time.perf_counter()
        for x, y in batches:
            plain.zero_grad(set_to_none=True)
            F.cross_entropy(plain(x), y).backward()  # type: ignore[no-untyped-call]
        return (time.perf_counter() - started) / len(batches)

    def search(steps: int) -> float:
        objective = Adversarial(PGD(ThreatModel("l2", 0.2, support=words), steps=steps))
        started = time.perf_counter()
        train(network, batches, objective, optimizer=spec, epochs=1, constraint=gates,
              parameters=gates.parameters(), quiet=True)  # fmt: skip
        return (time.perf_counter() - started) / len(batches)

    print("| K | pass | search step | in passes, median (range) | allowed |")
    print("| --- | --- | --- | --- | --- |")
    passes()
    for steps in options.steps:
        search(steps)
        pairs = [(passes(), search(steps)) for _ in range(options.repeats)]
        ratios = [two / one for one, two in pairs]
        print(
            f"| {steps} | {statistics.median(one for one, _ in pairs):.2f} s "
            f"| {statistics.median(two for _, two in pairs):.2f} s "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) "
            f"| {steps + 1.2:.1f} |",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the process: {peak:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
