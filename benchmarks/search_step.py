"""Cost of a search's step against a dense adversarial training step.

    OMP_NUM_THREADS=2 python -m benchmarks.search_step --repeats 9

Same network, batch and attack (PGD-7): a scratch ticket's search (scores move), training under a
fixed mask, ADMM. A repetition trains `--steps` steps of each, one after the other, through the
project's own loop, and takes the median step of each, so that a busy machine slows all. Prints the
median ratio with its quartiles, and where the time of a step goes.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from attacks import PGD, ThreatModel
from robustprune.minmax import Adversarial, Constraint, OptimizerSpec, train
from robustprune.models import ModelInputs, build_model
from robustprune.run.allocator import keep_freed_memory
from robustprune.search.admm import Admm
from robustprune.search.popup import ScoreTopK, random_scores
from robustprune.sparsity import (
    Allocation,
    MaskSet,
    apply_masks,
    computed_once,
    keep_best,
    maskable_layers,
)
from robustprune.sparsity.criteria import weights_of

ATTACK = PGD(ThreatModel("linf", 0.1), steps=7)
OBJECTIVE = Adversarial(ATTACK)
SPEC = OptimizerSpec(lr=0.01)
CASES = {
    "fcn": (ModelInputs((1, 96), 2), {"widths": [64, 128, 64]}, 25),
    "lenet": (ModelInputs((1, 28, 28), 10), {"width": 8}, 128),
    "preact_resnet18": (ModelInputs((3, 32, 32), 10), {}, 32),
}


class Clock:
    """Batches that note the time until the next is asked for: a whole step of the loop."""

    def __init__(self, x: Tensor, y: Tensor, batch: int) -> None:
        self.batches = list(zip(x.split(batch), y.split(batch), strict=True))
        self.seconds: list[float] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for pair in self.batches:
            started = time.perf_counter()
            yield pair
            self.seconds.append(time.perf_counter() - started)


@dataclass
class Contestant:
    """A network with what moves in it, and what a search adds to the loop."""

    model: nn.Module
    moving: list[nn.Parameter]
    constraint: Constraint | None = None

    def step(self, clock: Clock) -> float:
        """Median seconds of a step of the loop."""
        clock.seconds.clear()
        train(
            self.model, clock, OBJECTIVE, optimizer=SPEC, epochs=1, parameters=self.moving,
            constraint=self.constraint, quiet=True,
        )  # fmt: skip
        return statistics.median(clock.seconds)

    def parts(self, x: Tensor, y: Tensor) -> list[float]:
        """Milliseconds of masks, attack, outer forward and backward pass, and update."""
        descent = SPEC.build(self.moving)
        at = [time.perf_counter()]
        with computed_once(self.model):
            for layer in filter(parametrize.is_parametrized, self.model.modules()):
                layer.weight  # noqa: B018  (computes it)
            at.append(time.perf_counter())
            x_adv = ATTACK(self.model, x, y)
            at.append(time.perf_counter())
            loss = nn.functional.cross_entropy(self.model(x_adv), y)
            if self.constraint is not None:
                loss = loss + self.constraint.penalty(self.model)
            at.append(time.perf_counter())
            loss.backward()
            at.append(time.perf_counter())
        descent.step()
        at.append(time.perf_counter())
        return [1e3 * (after - before) for before, after in pairwise(at)]


def contestants(name: str, density: float, allocate: Allocation) -> dict[str, Contestant]:
    """Dense training first, then the searches in the same network."""
    inputs, settings, _ = CASES[name]
    torch.manual_seed(0)
    dense = build_model(name, inputs, options=settings).train()
    random, masked, admm = (copy.deepcopy(dense) for _ in range(3))
    layers = maskable_layers(random.requires_grad_(False))
    scores = ScoreTopK(
        layers,
        density=density,
        pattern="element",
        allocate=allocate,
        scores=random_scores(layers, generator=torch.Generator().manual_seed(0)),
    )

    def largest(v: Mapping[str, Tensor], rho: float = 0.0) -> MaskSet:
        squares = {name: value.detach() ** 2 for name, value in v.items()}
        return keep_best(squares, maskable_layers(admm), density=density, allocate=allocate)

    apply_masks(masked, largest(weights_of(maskable_layers(masked))))
    drawn = Admm(
        maskable_layers(admm), largest, l1=None, rho=1e-3, rho_growth=1.0, rho_max=1.0, every=1
    )
    return {
        "dense": Contestant(dense, list(dense.parameters())),
        "scratch ticket": Contestant(random, scores.parameters()),
        "masked": Contestant(masked, list(masked.parameters())),
        "ADMM": Contestant(admm, list(admm.parameters()), drawn),
    }


def middle(rows: list[list[float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def compare(name: str, *, steps: int, repeats: int, density: float, allocate: Allocation) -> None:
    inputs, _, batch = CASES[name]
    all_of_them = contestants(name, density, allocate)
    x = torch.rand(steps * batch, *inputs.input_shape)
    clock = Clock(x, torch.randint(inputs.num_classes, (len(x),)), batch)
    for one in all_of_them.values():
        one.step(clock)  # warm up
    times = [[one.step(clock) for one in all_of_them.values()] for _ in range(repeats)]
    profile = [
        [one.parts(*clock.batches[0]) for one in all_of_them.values()]
        for _ in range(steps * repeats)
    ]
    for index, kind in enumerate(all_of_them):
        low, ratio, high = statistics.quantiles([row[index] / row[0] for row in times])
        seconds = statistics.median(row[index] for row in times)
        cells = [name, str(batch), kind, f"{1e3 * seconds:.1f} ms"]
        cells.append(f"{ratio:.3f} ({low:.3f}–{high:.3f})" if index else "")
        cells += [f"{part:.2f}" for part in middle([row[index] for row in profile])]
        print(f"| {' | '.join(cells)} |", flush=True)


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
    keep_freed_memory()
    print(
        "| network | batch | training | step | this / dense, median (quartiles) | masks, ms "
        "| attack | forward | backward | update |"
    )
    print("| --- " * 10 + "|")
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
