"""The methods that `benchmarks.layerwise` compares: each makes a ticket of a dense network."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from torch import nn

from attacks import PGD
from benchmarks.layerwise_networks import Case, loader
from benchmarks.search_rows import ROWS as SEARCH_ROWS
from benchmarks.search_rows import scratch
from benchmarks.sparse_rows import ROWS
from robustprune.layerwise import prune_layerwise
from robustprune.minmax import (
    Adversarial,
    Ard,
    Awp,
    Iad,
    Mart,
    Objective,
    OptimizerSpec,
    Rslad,
    Trades,
)
from robustprune.search import (
    Ticket,
    finetune_ticket,
    prune_admm,
    prune_one_shot,
    prune_scores,
    prune_woodfisher,
    training_work,
)
from robustprune.sparsity import AllocationName, apply_masks, bake
from robustprune.tasks import BatchLoader, Split, Task

Search = Callable[[Case, Task, nn.Module, float, int], Ticket]


def layerwise(
    solver: str,
    clean: float | None = 0.0,
    examples: int | None = None,
    *,
    whole: bool = True,
    **options: object,
) -> Search:
    """`prune_layerwise`; `clean` is the share of calibration inputs that stay clean, None for no
    attack at all, and `examples` how many inputs are drawn, None for those of the case. With
    `whole`, the layers that the case names stay whole."""

    def search(case: Case, task: Task, model: nn.Module, density: float, seed: int) -> Ticket:
        attack = PGD(case.threat, steps=20, step_size=case.threat.eps / 4, seed=seed)
        attacked = {} if clean is None else {"attack": attack, "clean": clean}
        loader = calibration(case, task) if examples is None else drawn(task, examples, seed)
        return prune_layerwise(
            model, loader, density=density, solver=solver,
            dense=case.whole if whole else (), seed=seed, **attacked, **options,
        )  # fmt: skip

    return search


def calibration(case: Case, task: Task) -> BatchLoader:
    """The first training examples as they are, `case.calibration` of them."""
    x, y = task.train.batch(slice(case.calibration))
    return BatchLoader(Split(x, y), min(len(y), 500), shuffle=False, seed=0)


def drawn(task: Task, examples: int, seed: int) -> BatchLoader:
    """So many training examples, drawn by the seed."""
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed))
    x, y = task.train.batch(order[:examples])
    return BatchLoader(Split(x, y), min(len(y), 500), shuffle=False, seed=0)


def masked(search: Search, *, refitted: bool) -> Search:
    """The dense network under the mask that a search found: as it is, or with the least squares of
    `prune_layerwise` on that mask."""

    def run(case: Case, task: Task, model: nn.Module, density: float, seed: int) -> Ticket:
        masks = search(case, task, model, density, seed).masks
        if refitted:
            attack = PGD(case.threat, steps=20, step_size=case.threat.eps / 4, seed=seed)
            return prune_layerwise(
                model, calibration(case, task), masks=masks, solver="refit", attack=attack,
                clean=0.0, sweeps=3, seed=seed,
            )  # fmt: skip
        network = copy.deepcopy(model)
        apply_masks(network, masks)
        return Ticket(masks, bake(network), [])

    return run


def trained(search: Callable[..., Ticket], **options: object) -> Search:
    """A search that trains under the attack of the dense network's training, from that network."""

    def run(case: Case, task: Task, model: nn.Module, density: float, seed: int) -> Ticket:
        half = {"amp": True, "channels_last": True} if case.half else {}
        return search(
            model, loader(case, task, seed), density=density, attack=case.attack,
            dense=case.whole, quiet=True, **half, **options,
        )  # fmt: skip

    return run


def magnitude(allocate: AllocationName = "layer") -> Search:
    """The largest weights of each layer."""

    def run(case: Case, task: Task, model: nn.Module, density: float, seed: int) -> Ticket:
        return prune_one_shot(model, density=density, dense=case.whole, allocate=allocate)

    return run


def woodfisher(**options: object) -> Search:
    """`prune_woodfisher` on the gradients at attacked training examples."""

    def run(case: Case, task: Task, model: nn.Module, density: float, seed: int) -> Ticket:
        return prune_woodfisher(
            model, calibration(case, task), density=density, attack=case.attack,
            dense=case.whole, **options,
        )  # fmt: skip

    return run


#: the losses of a fine-tuning, from the attack and the dense network, which may teach
LOSSES: dict[str, Callable[[PGD, nn.Module], Objective]] = {
    "": lambda attack, dense: Adversarial(attack),
    "trades": lambda attack, dense: Trades(attack),
    "mart": lambda attack, dense: Mart(attack),
    "ard": lambda attack, dense: Ard(dense, attack),
    "rslad": lambda attack, dense: Rslad(dense, attack),
    "iad": lambda attack, dense: Iad(dense, attack),
    "awp": lambda attack, dense: Awp(Adversarial(attack)),
    "rslad awp": lambda attack, dense: Awp(Rslad(dense, attack)),
}


def tuned(search: Search, epochs: int, loss: str = "") -> Search:
    """The method, and its kept weights trained under attack."""

    def run(case: Case, task: Task, model: nn.Module, density: float, seed: int) -> Ticket:
        ticket = search(case, task, model, density, seed)
        spec = OptimizerSpec(
            lr=case.optimizer.lr / (1 if epochs > 10 else 5),
            weight_decay=case.optimizer.weight_decay,
        )
        objective = LOSSES[loss](case.attack, model)
        return finetune_ticket(
            ticket, loader(case, task, seed), objective, epochs=epochs, optimizer=spec, quiet=True,
            amp=case.half, channels_last=case.half,
        )  # fmt: skip

    return run


#: rho, ridge and iterations were chosen on seeds 0 to 2 of ECG200, see docs/methods/layerwise.md
ADMM = {"rho": 0.1, "ridge": 0.01, "iterations": 60, "chosen": 50, "start": "optimum"}
OURS = {**ADMM, "allocate": "erk", "sweeps": 3}

METHODS: dict[str, Search] = {
    "magnitude": magnitude(),
    "magnitude, erk": magnitude("erk"),
    "wanda": layerwise("wanda", allocate="row"),
    "sparsegpt": layerwise("sparsegpt", target="own"),
    "admm, own": layerwise("admm", target="own", **ADMM),
    "ours": layerwise("admm", **OURS),
    "ours, residual": layerwise("admm", target="residual", **OURS),
    "ours, fisher": layerwise("admm", outputs="fisher", **OURS),
    "ours, fisher global": layerwise(
        "admm", outputs="fisher", **{**OURS, "allocate": "global"}
    ),
    "ours, layer": layerwise("admm", **{**OURS, "allocate": "layer"}),
    "ours, published": layerwise("admm", allocate="erk", sweeps=3),
    "ours, igq": layerwise("admm", **{**OURS, "allocate": "igq"}),
    "ours, one sweep": layerwise("admm", **{**OURS, "sweeps": 1}),
    "ours, clean": layerwise("admm", clean=None, **{**OURS, "sweeps": 1}),
    "ours, half": layerwise("admm", clean=0.5, **OURS),
    "ours, bias": layerwise("admm", bias=True, **OURS),
    "ours, batch norm": layerwise("admm", batch_norm="estimate", **OURS),
    "ours, logits": layerwise("admm", whole=False, **OURS),
    "ours, own": layerwise("admm", target="own", **OURS),
    "residual, one sweep": layerwise(
        "admm", target="residual", clean=0.5, **{**OURS, "sweeps": 1}
    ),
    "residual, fisher": layerwise(
        "admm", target="residual", clean=0.5, outputs="fisher", **{**OURS, "sweeps": 1}
    ),
    "ours, obs": layerwise("obs", allocate="erk", sweeps=3),
    "ours, omp": layerwise("omp", allocate="erk", sweeps=3),
    "ours, sparsegpt": layerwise("sparsegpt", allocate="erk", sweeps=3),
    **{
        f"ours, {examples} examples": layerwise("admm", examples=examples, **OURS)
        for examples in (10, 20, 50)
    },
    **{
        f"ours, {examples} clean examples": layerwise(
            "admm", clean=None, examples=examples, **{**OURS, "sweeps": 1})
        for examples in (10, 20, 50)
    },
    "magnitude+100": tuned(magnitude(), 100),
    "woodfisher": woodfisher(allocate="erk"),
    "admm, 4 bits": trained(prune_admm, epochs=200, every=5, rho=1e-2, bits=4,
                            optimizer=OptimizerSpec(lr=0.01, weight_decay=1e-4)),
    "admm of training+100": tuned(
        trained(prune_admm, epochs=100, every=5, rho=1e-2,
                optimizer=OptimizerSpec(lr=0.01, weight_decay=1e-4)), 100),
}  # fmt: skip

#: searches whose masks are also laid on the dense network, with and without a refit
SEARCHES: dict[str, Search] = {
    "hydra": trained(prune_scores, method="hydra", epochs=50,
                     optimizer=OptimizerSpec(lr=0.1, weight_decay=1e-4)),
    "harp": trained(prune_scores, method="harp", epochs=50,
                    optimizer=OptimizerSpec(lr=0.1, weight_decay=1e-4)),
    **{
        f"{name}, erk": trained(prune_scores, method=name, epochs=50, allocate="erk",
                                optimizer=OptimizerSpec(lr=0.1, weight_decay=1e-4))
        for name in ("hydra", "harp")
    },
    "harp, 1 epoch": trained(
        prune_scores, method="harp", epochs=1, optimizer=OptimizerSpec(lr=0.1)
    ),
    **{
        f"{name}, erk, 1 epoch": trained(
            prune_scores, method=name, epochs=1, allocate="erk", optimizer=OptimizerSpec(lr=0.1)
        )
        for name in ("hydra", "harp")
    },
    "rst": scratch(epochs=200, optimizer=OptimizerSpec(lr=0.5)),
    # as in the config rst_mnist
    "rst, thresholds": scratch(
        epochs=6, thresholds=(0.5, 2.0),
        optimizer=OptimizerSpec(name="adam", lr=3e-3, weight_decay=0.0),
    ),
}  # fmt: skip
for _name, _search in SEARCHES.items():
    METHODS[_name], METHODS[f"{_name}+100"] = _search, tuned(_search, 100)
    METHODS[f"mask of {_name}"] = masked(_search, refitted=False)
    METHODS[f"mask of {_name}, refit"] = masked(_search, refitted=True)
METHODS |= ROWS | SEARCH_ROWS


def method(name: str) -> Search:
    """By name; "NAME+10" is fine-tuned for ten epochs, "NAME+10 rslad" with another loss."""
    if name in METHODS:
        return METHODS[name]
    base, _, tuning = name.rpartition("+")
    epochs, _, loss = tuning.partition(" ")
    return tuned(METHODS[base], int(epochs), loss)


def made(
    what: str, case: Case, task: Task, model: nn.Module, density: float, seed: int
) -> tuple[Ticket, dict[str, object]]:
    """Prune the dense network, and say what it took."""
    torch.manual_seed(seed)
    started = time.process_time()
    ticket = method(what)(case, task, model, density, seed)
    extra: dict[str, object] = {"kept": ticket.masks.density}
    if (work := training_work(ticket.history, case.inner[0])) is not None:
        extra |= {"work": work, "explored": ticket.history[-1].figures["explored"]}
    return ticket, {**extra, "seconds": round(time.process_time() - started, 2)}
