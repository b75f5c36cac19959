"""What each search holds at its peak, in multiples of its network's parameters.

    python -m benchmarks.memory
    python -m benchmarks.memory --width 2048 --only "rst, global" snip

A multilayer perceptron of 8 square layers in float32, batches of 4 examples, PGD of one step, two
epochs; each search in a process of its own, after the same search on a small network. What is
counted is the peak of the resident memory over what there was before the network was made; 1 is the
caller's own network, which a search never changes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEPTH = 8


def searches() -> dict[str, Callable[[Any, Any, Any], object]]:
    """By name: a function of network, loader and attack."""
    from robustprune import search
    from robustprune.minmax import Adversarial, OptimizerSpec, Validation

    loop: dict[str, Any] = {"epochs": 2, "quiet": True}
    sgd = OptimizerSpec(lr=1e-4, momentum=0.9)

    def one_shot(**options: Any) -> Callable[[Any, Any, Any], object]:
        return lambda m, data, a: search.prune_one_shot(m, data, density=0.1, **options)

    def learned(find: Any, **options: Any) -> Callable[[Any, Any, Any], object]:
        return lambda m, data, a: find(m, data, density=0.1, attack=a, **loop, **options)

    def tuned(**options: Any) -> Callable[[Any, Any, Any], object]:
        def tune(m: Any, data: Any, a: Any) -> object:
            ticket = search.prune_one_shot(m, density=0.1)
            choice = Validation(loader=data, attack=a) if options else None
            return search.finetune_ticket(
                ticket, data, Adversarial(a), optimizer=sgd, validation=choice, **loop, **options
            )

        return tune

    return {
        "magnitude": one_shot(),
        "magnitude, global": one_shot(allocate="global"),
        "snip": one_shot(criterion="snip"),
        "grasp": one_shot(criterion="grasp"),
        "rst": learned(search.find_scratch_ticket),
        "rst, global": learned(search.find_scratch_ticket, allocate="global"),
        "hydra": learned(search.prune_scores),
        "harp": learned(search.prune_scores, method="harp"),
        "admm": learned(search.prune_admm, every=1),
        "lottery": learned(search.find_lottery_ticket, rounds=2, optimizer=sgd),
        "language": learned(search.find_language_ticket, dense=()),
        "fine-tuning": tuned(),
        "fine-tuning, averaged, validated": tuned(average=0.9),
    }


def measure(name: str, width: int) -> float:
    """Peak bytes a byte of the network's parameters, in this process."""
    import torch
    from torch import nn

    from attacks import PGD, ThreatModel

    def run(width: int) -> tuple[float, int]:
        before = _resident()
        layers = [nn.Linear(width, width, bias=False) for _ in range(DEPTH)]
        model = nn.Sequential(*layers)
        data = [(torch.rand(4, width), torch.arange(4) % width)]
        searches()[name](model, data, PGD(ThreatModel("linf", 0.1), steps=1, seed=0))
        return before, sum(4 * p.numel() for p in model.parameters())

    run(16)
    before, size = run(width)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (peak - before) / size


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--width", type=int, default=1024, help="of the square layers (1024)")
    parser.add_argument("--only", nargs="+", help="names of searches (default: all)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.width)))
        return
    # glibc then gives back every tensor that is freed, so that only what is held is counted
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    print(
        f"{DEPTH * options.width**2:,} parameters\n\n| search | peak / parameters |\n| --- | --- |"
    )
    for name in options.only or searches():
        asked = [sys.executable, "-m", "benchmarks.memory", "--one", name]
        asked += ["--width", str(options.width)]
        found = subprocess.run(asked, capture_output=True, text=True, check=True, env=environment)
        print(f"| {name} | {float(found.stdout):.1f} |", flush=True)


if __name__ == "__main__":
    main()
