"""What a second rank is worth: wall time of a search step on one process and on several.

    OMP_NUM_THREADS=1 python -m benchmarks.ranks
    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 -m benchmarks.ranks

A robust scratch ticket search on a pre-activation ResNet-18, random images (3, 32, 32), batches of
32 over all ranks. K attack steps send nothing; the gradient of the scores goes round once a step.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import torch

from attacks import PGD, ThreatModel
from robustprune.models import build_model
from robustprune.models.build import ModelInputs
from robustprune.run.allocator import keep_freed_memory
from robustprune.run.runtime import choose_device, is_first, leave, ranks
from robustprune.search import find_scratch_ticket


def seconds_a_step(width: int, steps: int, batch: int, repeats: int) -> float:
    """Median wall time of a step."""
    torch.manual_seed(0)
    model = build_model("preact_resnet18", ModelInputs((3, 32, 32), 10), options={"width": width})
    batches = [(torch.rand(batch, 3, 32, 32), torch.arange(batch) % 10)]
    clock = [time.perf_counter()]
    find_scratch_ticket(
        model,
        batches,
        density=0.1,
        attack=PGD(ThreatModel("linf", 8 / 255, (0.0, 1.0)), steps=steps),
        epochs=repeats + 1,
        quiet=True,
        on_epoch=lambda _: clock.append(time.perf_counter()),
    )
    return statistics.median(after - before for before, after in itertools.pairwise(clock[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 3, 7], help="K")
    parser.add_argument("--batch", type=int, default=32, help="of all ranks together")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    keep_freed_memory()
    choose_device("cpu")
    for width in options.widths:
        found = [seconds_a_step(width, k, options.batch, options.repeats) for k in options.steps]
        if is_first():
            cells = " | ".join(f"{seconds:.3f}" for seconds in found)
            print(f"| {ranks()} | {width} | {cells} |", flush=True)
    leave()


if __name__ == "__main__":
    main()
