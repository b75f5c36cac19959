"""Cost of a step of sparse training against a dense adversarial training step.

    OMP_NUM_THREADS=1 python -m benchmarks.sparse_step --repeats 15

Same network, batch and attack (PGD-7). Dense and sparse training take turns, step by step, so that
a busy machine slows both. An ordinary step is compared with a dense step, and so is a step with an
update of the masks. Prints the ratio of the fastest steps, and the median ratio with its quartiles.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import threading
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attacks import PGD, ThreatModel
from benchmarks.search_step import CASES
from robustprune.minmax import Adversarial, OptimizerSpec, train
from robustprune.models import build_model
from robustprune.run.allocator import keep_freed_memory
from robustprune.search import SPARSE_METHODS
from robustprune.search.sparse_constraint import SparseTraining
from robustprune.sparsity import maskable_layers

OBJECTIVE = Adversarial(PGD(ThreatModel("linf", 0.1), steps=7))
SPEC = OptimizerSpec(lr=0.01)


class Turns:
    """Batches of one of two trainings that take turns, each in a thread; notes the time of steps.

    The other training waits while one makes a step, so that nothing runs at the same time.
    """

    def __init__(self, batches: list[tuple[Tensor, Tensor]], mine: threading.Semaphore,
                 other: threading.Semaphore) -> None:  # fmt: skip
        self.batches, self.mine, self.other = batches, mine, other
        self.seconds: list[float] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for pair in self.batches:
            self.mine.acquire()
            started = time.thread_time()
            yield pair
            self.seconds.append(time.thread_time() - started)
            self.other.release()


def turns(
    models: list[nn.Module], constraint: SparseTraining, batches: list[tuple[Tensor, Tensor]]
) -> list[list[float]]:
    """Train both models step by step in turns; return the seconds of their steps."""
    first, second = threading.Semaphore(1), threading.Semaphore(0)
    loaders = [Turns(batches, first, second), Turns(batches, second, first)]

    def run(index: int) -> None:
        torch.set_num_threads(1)
        train(
            models[index], loaders[index], OBJECTIVE, optimizer=SPEC, epochs=1, quiet=True,
            constraint=constraint if index else None,
        )  # fmt: skip

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [loader.seconds for loader in loaders]


def compare(name: str, method: str, *, density: float, every: int, repeats: int) -> None:
    inputs, settings, batch = CASES[name]
    torch.manual_seed(0)
    dense = build_model(name, inputs, options=settings).train()
    sparse = copy.deepcopy(dense)
    x = torch.rand(batch, *inputs.input_shape)
    batches = [(x, torch.randint(inputs.num_classes, (batch,)))] * (every * repeats + 1)
    constraint = SparseTraining(
        sparse, maskable_layers(sparse), SPARSE_METHODS[method], density=density,
        pattern="element", allocate=None, every=every, seed=0, epochs=1,
    )  # fmt: skip
    plain, masked = turns([dense, sparse], constraint, batches)
    updates = set(constraint.schedule.numbers)
    for kind in ("ordinary", "update"):
        steps = [
            index
            for index in range(1, len(batches))  # the first warms up
            if (index + 1 in updates) == (kind == "update")
        ]
        ratios = sorted(masked[index] / plain[index] for index in steps)
        low, middle, high = statistics.quantiles(ratios)
        fastest = min(masked[i] for i in steps) / min(plain[i] for i in steps)
        cells = [name, str(batch), method, kind, str(len(steps)), f"{fastest:.3f}"]
        print(f"| {' | '.join(cells)} | {middle:.3f} ({low:.3f}–{high:.3f}) |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["fcn", "lenet"], choices=list(CASES))
    parser.add_argument("--methods", nargs="+", default=["rigl", "set", "granet"])
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--every", type=int, default=3, help="steps from one update to the next")
    parser.add_argument("--repeats", type=int, default=15, help="updates")
    options = parser.parse_args()
    keep_freed_memory()
    print("| network | batch | method | step | number | fastest / fastest | median (quartiles) |")
    print("| --- " * 7 + "|")
    for name in options.models:
        for method in options.methods:
            compare(
                name, method, density=options.density, every=options.every,
                repeats=options.repeats,
            )  # fmt: skip


if __name__ == "__main__":
    main()
