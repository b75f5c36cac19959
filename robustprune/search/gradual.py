"""Gradual magnitude pruning: a network becomes sparse during its training, by a cubic schedule."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from typing_extensions import Unpack

from attacks import Attack
from robustprune.minmax import (
    Batches,
    LoopOptions,
    Objective,
    OptimizerLike,
    known_by_its_call,
)
from robustprune.search.sparse_training import train_sparse
from robustprune.search.ticket import EPOCHS, OPTIMIZER, Ticket
from robustprune.sparsity import Allocation


@known_by_its_call
def prune_gradual(
    model: nn.Module,
    loader: Batches,
    *,
    density: float,
    attack: Attack | None = None,
    objective: Objective | None = None,
    pattern: str = "element",
    allocate: Allocation = "layer",
    dense: Iterable[str] = (),
    seed: int = 0,
    epochs: int = EPOCHS,
    optimizer: OptimizerLike = OPTIMIZER,
    start: float = 0.0,
    stop: float = 0.75,
    every: int | None = None,
    **loop: Unpack[LoopOptions],
) -> Ticket:
    """Train a network and prune it meanwhile, in n updates with Δ steps between them. Update i
    keeps the largest |w| of the remaining weights, at the density

        d_i = d + (1 − d) (1 − i/n)³,   i = 1 … n

    (Zhu & Gupta 2017, arXiv 1710.01878, Eq. 1, with d = 1 − sparsity and a dense start). Pruned
    weights never come back. The remaining weights go on training. This is the row "gradual" of
    `train_sparse`.

    Args:
        model: a new or a trained network, which is copied and never changed.
        loader: an iterable of (x, y) batches with a length.
        density: d, the fraction of the groups to keep at the end, in (0, 1].
        attack: the inner attack; give exactly one of `attack` and `objective`.
        pattern: see `robustprune.sparsity.patterns`. "N:M" keeps ⌈d_i · M⌉ of every M.
        allocate: see `robustprune.sparsity.allot`; with a density for each layer, each one has its
            own schedule.
        dense: layers that are not masked: "first", "last" or layer names.
        seed: it must be 0, because this search draws no random numbers.
        start, stop: the fractions of the training between which the updates are.
        every: Δ, the number of steps between two updates; None makes 100 updates, or one for each
            step.
        loop: the options of `LoopOptions` for the training, which `train` explains.

    Returns:
        Ticket(masks, model, history); the records contain the density that was reached.

    Raises:
        ValueError: an option is out of range, the loader has no length, there is no step for an
            update, a validation is given (it could choose an epoch that is not sparse yet), or
            nothing can be masked.
        TrainingDiverged: the loss became non-finite.
    """
    return train_sparse(
        model,
        loader,
        density=density,
        attack=attack,
        objective=objective,
        pattern=pattern,
        allocate=allocate,
        dense=dense,
        seed=seed,
        epochs=epochs,
        optimizer=optimizer,
        method="gradual",
        ramp=stop,
        start=start,
        stop=stop,
        every=every,
        **loop,
    )
