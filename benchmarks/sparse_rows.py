"""Sparse training, from the first weights of the dense networks that `benchmarks.layerwise` prunes.

Each method has the optimizer, the attack and the epochs of the dense network's training; ", twice"
trains for twice as many epochs, as long as the dense network and a fine-tuning together.
Flying Bird+ is left out, because it needs examples that are held out. Twin-Rep's network is dense
for the first tenth of the training.

    python -m benchmarks.layerwise --data-dir DATA --out OUT --methods rigl "rigl, twice" rigl+100
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.layerwise_networks import Case, loader
from robustprune.minmax import Adversarial
from robustprune.models import build_model
from robustprune.search import SPARSE_METHODS, Ticket, prune_twin, train_sparse
from robustprune.tasks import Task


def sparse(
    method: str, *, times: int = 1, **options: object
) -> Callable[[Case, Task, nn.Module, float, int], Ticket]:
    """Sparse training from new weights; the dense network that is given is not used."""

    def run(case: Case, task: Task, model: nn.Module, density: float, seed: int) -> Ticket:
        torch.manual_seed(seed)
        fresh = build_model(case.model, task, options=dict(case.options))
        return train_sparse(
            fresh, loader(case, task, seed), density=density, dense=case.whole,
            objective=Adversarial(case.attack, warmup=case.warmup), method=method,
            seed=seed if SPARSE_METHODS[method].draws else 0, epochs=times * case.epochs,
            optimizer=case.optimizer, amp=case.half, channels_last=case.half, quiet=True, **options,
        )  # fmt: skip

    return run


def twin(**options: object) -> Callable[[Case, Task, nn.Module, float, int], Ticket]:
    """Twin-Rep from new weights; the dense network that is given is not used."""

    def run(case: Case, task: Task, model: nn.Module, density: float, seed: int) -> Ticket:
        torch.manual_seed(seed)
        return prune_twin(
            build_model(case.model, task, options=dict(case.options)), loader(case, task, seed),
            density=density, dense=case.whole, seed=seed, epochs=case.epochs,
            objective=Adversarial(case.attack, warmup=case.warmup), optimizer=case.optimizer,
            amp=case.half, channels_last=case.half, quiet=True, **options,
        )  # fmt: skip

    return run


ROWS = {
    f"{name}{said}": sparse(name, times=times)
    for name, row in SPARSE_METHODS.items()
    if not row.adaptive
    for said, times in (("", 1), (", twice", 2))
}
ROWS["static, igq"] = sparse("static", allocate="igq")
ROWS["rigl, igq"] = sparse("rigl", allocate="igq")
ROWS["twinrep"] = twin(allocate="erk")
ROWS["twinrep, global"] = twin(allocate="global")
ROWS["itop, gradient"] = sparse("itop", grow="gradient")
