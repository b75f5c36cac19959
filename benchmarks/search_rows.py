"""More searches for `benchmarks.layerwise`: L0 gates, and learned scores around which the robust
loss is flat (S2AP), with the options of the same searches without it.

    python -m benchmarks.layerwise --data-dir DATA --out OUT --methods l0 l0+10 "harp with s2ap+100"
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from benchmarks.layerwise_networks import Case, loader
from robustprune.minmax import Adversarial, Awp, OptimizerSpec
from robustprune.search import Ticket, find_scratch_ticket, prune_l0, prune_scores
from robustprune.tasks import Task

SCORES = OptimizerSpec(lr=0.1, weight_decay=1e-4)


def learned(
    search: Callable[..., Ticket], *, flat: bool = False, **options: object
) -> Callable[[Case, Task, nn.Module, float, int], Ticket]:
    """A search that starts at the dense network, under the attack of that network's training; with
    `flat`, what is trained is perturbed at each step (`Awp`, γ = 5e-3)."""

    def run(case: Case, task: Task, model: nn.Module, density: float, seed: int) -> Ticket:
        objective = Adversarial(case.attack)
        return search(
            model, loader(case, task, seed), density=density, dense=case.whole,
            objective=Awp(objective) if flat else objective,
            amp=case.half, channels_last=case.half, quiet=True, **options,
        )  # fmt: skip

    return run


def scratch(
    *, flat: bool = False, **options: object
) -> Callable[[Case, Task, nn.Module, float, int], Ticket]:
    """A scratch ticket of weights that the seed draws; of the network that is given only the shape
    is used."""

    def run(case: Case, task: Task, model: nn.Module, density: float, seed: int) -> Ticket:
        objective = Adversarial(case.attack, warmup=case.warmup)
        return find_scratch_ticket(
            model, loader(case, task, seed), density=density, dense=case.whole, seed=seed,
            objective=Awp(objective) if flat else objective,
            amp=case.half, channels_last=case.half, quiet=True, **options,
        )  # fmt: skip

    return run


ROWS = {
    "l0": learned(prune_l0, allocate="erk"),
    "hydra with s2ap": learned(
        prune_scores, flat=True, method="hydra", epochs=50, optimizer=SCORES
    ),
    "hydra, erk, with s2ap": learned(
        prune_scores, flat=True, method="hydra", allocate="erk", epochs=50, optimizer=SCORES
    ),
    "harp with s2ap": learned(prune_scores, flat=True, method="harp", epochs=50, optimizer=SCORES),
    "rst with s2ap": scratch(flat=True, epochs=200, optimizer=OptimizerSpec(lr=0.5)),
}
