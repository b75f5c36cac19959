"""Sparse training: a network that is sparse from the start, and whose mask moves on the way."""

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
    train,
)
from robustprune.search.sparse_constraint import SparseTraining
from robustprune.search.sparse_methods import Growth, chosen_method
from robustprune.search.ticket import (
    DRAWS_NOTHING,
    EPOCHS,
    OPTIMIZER,
    Ticket,
    chosen_objective,
    copy_on,
    layers_to_mask,
    refuse_others,
)
from robustprune.sparsity import Allocation, bake, check_density, check_pattern


@known_by_its_call
def train_sparse(
    model: nn.Module,
    loader: Batches,
    *,
    density: float,
    attack: Attack | None = None,
    objective: Objective | None = None,
    pattern: str = "element",
    allocate: Allocation | None = None,
    dense: Iterable[str] = (),
    seed: int = 0,
    epochs: int = EPOCHS,
    optimizer: OptimizerLike = OPTIMIZER,
    method: str = "rigl",
    first: float | None = None,
    ramp: float | None = None,
    drop: float | None = None,
    drop_end: float | None = None,
    grow: Growth | None = None,
    more_drop: float | None = None,
    more_growth: float | None = None,
    start: float | None = None,
    stop: float | None = None,
    every: int | None = None,
    **loop: Unpack[LoopOptions],
) -> Ticket:
    """Train a network under a mask that moves on the way. Every Δ steps, each layer with k active
    weights

        keeps k_t = the share of the density d_t, by |w|                 (cut, where d_t falls)
        drops the ζ_t k of them with the smallest |w|                    (drop)
        adds as many others, at 0: random ones, or argmax |∂L/∂(m ⊙ w)|   (grow)

    d_t = d + (d_0 − d) (1 − i/n)³ (Zhu & Gupta 2017, arXiv 1710.01878, Eq. 1), and
    ζ_t = ζ_end + (ζ − ζ_end) (1 + cos(π i/n))/2 (Evci et al. 2020, arXiv 1911.11134, Sec. 3) after
    update i of n. The methods are the rows of `sparse_methods.SPARSE_METHODS`, which differ in
    these numbers; docs/methods/sparse_training.md has the table. An update comes after the
    optimizer's step, as in ITOP. Only weights that were dropped can be added, those of the same
    update included. A weight that is added starts at zero without momentum.

    Args:
        model: a new network, which is copied and never changed.
        loader: an iterable of (x, y) batches with a length.
        density: d, the fraction of the groups to keep, in (0, 1].
        attack: the inner attack; give exactly one of `attack` and `objective`.
        pattern: see `robustprune.sparsity.patterns`. N:M grows in the block of M in which it drops.
        allocate: see `robustprune.sparsity.allot`; None takes that of the method. "row" grows in
            the output in which it drops.
        dense: layers that are not masked: "first", "last" or layer names.
        seed: the seed of the first mask and of random growth; 0 for methods that draw nothing.
        method: a name in `SPARSE_METHODS`. Each of the following options replaces a number of its
            row, and None takes that of the row.
        first, ramp: d_0, and the fraction of the training at which d is reached.
        drop, drop_end: ζ at the start and at the end.
        grow: "random" or "gradient".
        more_drop, more_growth: shares of what is dropped that are dropped and grown on top of it
            while validation shows overfitting, as in Flying Bird+.
        start, stop: the fractions of the training between which the updates are.
        every: Δ, the number of steps between two updates.
        loop: the options of `LoopOptions` for the training, which `train` explains.

    Returns:
        Ticket(masks, model, history); the records contain the density, ITOP's rate of weights that
        were ever active ("explored"), how many were dropped and grown, and what `training_work`
        reads.

    Raises:
        ValueError: an option is out of range or has no effect, the loader has no length, there is
            no step for an update, nothing can be masked, or a validation is given that could choose
            an epoch at another density, or is missing where the method looks at it.
        TrainingDiverged: the loss became non-finite.
    """
    check_pattern(pattern, check_density(density))
    row = chosen_method(
        method, density, first=first, ramp=ramp, drop=drop, drop_end=drop_end, grow=grow,
        more_drop=more_drop, more_growth=more_growth, start=start, stop=stop, every=every,
    )  # fmt: skip
    if not row.draws:
        refuse_others(DRAWS_NOTHING, seed=(seed, 0))
    validated = loop.get("validation") is not None
    if validated and row.moves_density:
        raise ValueError(
            "validation could choose an epoch before the network is sparse; leave it out, and the "
            "last epoch is the result"
        )
    if row.adaptive and not validated:
        raise ValueError(
            f"method {method} adapts the density to held-out examples; give a `validation`"
        )
    if row.adaptive and ":" in pattern:
        raise ValueError(f"method {method} adapts the density, and pattern {pattern} fixes it")
    objective = chosen_objective(attack, objective)
    network = copy_on(model, loop.get("device")).requires_grad_(True)
    compared = allocate or ("layer" if ":" in pattern else row.allocate)
    layers = layers_to_mask(network, dense, pattern=pattern, allocate=compared, density=density)
    constraint = SparseTraining(
        network, layers, row, density=density, pattern=pattern, allocate=allocate, every=every,
        seed=seed, epochs=epochs, counted=not loop.get("compile", False),
    )  # fmt: skip
    loop.setdefault("title", f"{method} {density:.0%}")
    history = train(
        network,
        loader,
        objective,
        constraint=constraint,
        epochs=epochs,
        optimizer=optimizer,
        **loop,
    )
    constraint.finish(network)
    return Ticket(constraint.masks(network), bake(network), history)
