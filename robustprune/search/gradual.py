"""Gradual magnitude pruning: a network becomes sparse during its training, by a cubic schedule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from typing_extensions import Unpack

from attacks import Attack
from robustprune.minmax import (
    Batches,
    Constraint,
    LoopOptions,
    Objective,
    OptimizerLike,
    known_by_its_call,
    train,
)
from robustprune.search.lottery import survivors
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
from robustprune.sparsity import (
    Allocation,
    MaskSet,
    apply_masks,
    bake,
    check_density,
    check_pattern,
    count_kept,
    leaf_of,
    weights_of,
)


class Gradual(Constraint):
    """Keep fewer and fewer weights of the layers, by the schedule d_i of `prune_gradual`.

    Each update keeps the largest |w| of the remaining weights. The record of an epoch contains the
    density that was reached ("density").
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Mapping[str, nn.Module],
        *,
        density: float,
        pattern: str,
        allocate: Allocation,
        start: float,
        stop: float,
        every: int | None,
        epochs: int,
    ) -> None:
        # the fingerprint of a checkpoint contains the epochs, because the schedule depends on them
        self.epochs = epochs
        self.layers, self.density, self.pattern = layers, density, pattern
        self.allocate, self.start, self.stop, self.every = allocate, start, stop, every
        self.first, self.steps, self.updates, self.done = 0, 1, 1, 0
        weights = weights_of(layers)
        full = {name: torch.ones(w.shape, dtype=torch.bool) for name, w in weights.items()}
        apply_masks(network, MaskSet(full))

    def bind(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps_per_epoch: int | None,
        epochs: int,
    ) -> None:
        """Convert fractions of the training into steps.

        Raises:
            ValueError: the loader has no length, or there is no update between `start` and `stop`.
        """
        if steps_per_epoch is None:
            raise ValueError(
                "gradual pruning needs to know how many steps there are, and the loader has no "
                "length; give one with __len__"
            )
        total = steps_per_epoch * epochs
        self.first = int(self.start * total)
        way = int(self.stop * total) - self.first
        if way < (self.every or 1):
            raise ValueError(
                f"every={self.every or 1} leaves no update between start={self.start:g} and "
                f"stop={self.stop:g} of {total} steps, which are {way}; lower it, or train longer"
            )
        self.steps = self.every or max(1, way // 100)
        self.updates = way // self.steps

    def share(self, density: float) -> float:
        """Return d_i after the updates so far, for a schedule that ends at `density`."""
        left = 1 - self.done / self.updates
        return density + (1 - density) * left**3

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: int) -> None:
        done, rest = divmod(step - self.first, self.steps)
        if rest == 0 and 0 < done <= self.updates:
            self.prune(model, done)

    def prune(self, model: nn.Module, done: int) -> None:
        """Make update number `done`."""
        self.done = done
        density, pattern = self.share(self.density), self.pattern
        if ":" in pattern:  # keep ⌈d_i · M⌉ of every M
            most = int(pattern.partition(":")[2])
            kept = count_kept(density, most)
            if kept == most:
                return
            pattern, density = f"{kept}:{most}", kept / most
        masks = survivors(
            model, self.layers, self.masks(model), self.density,
            (lambda _: density) if ":" in pattern else self.share,
            pattern=pattern, allocate=self.allocate,
        )  # fmt: skip
        for name, mask in masks.items():
            self._mask(name).copy_(mask)

    def _mask(self, name: str) -> Tensor:
        listed = cast(Mapping[str, ParametrizationList], self.layers[name].parametrizations)
        return cast(Tensor, listed[leaf_of(self.layers[name], name)][0].mask)

    def after_epoch(self, model: nn.Module, epoch: int) -> dict[str, float]:
        return {"density": self.masks(model).density}

    def masks(self, model: nn.Module) -> MaskSet:
        return MaskSet({name: self._mask(name) for name in self.layers})

    def state_dict(self) -> dict[str, Tensor]:
        """Return the number of updates so far. (The masks are buffers of the model.)"""
        return {"done": torch.tensor(self.done)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.done = int(state["done"])


def check_way(start: float, stop: float) -> None:
    """Raise a ValueError unless 0 ≤ start < stop ≤ 1."""
    if not 0 <= start < stop <= 1:
        raise ValueError(
            f"start={start:g} and stop={stop:g} must be fractions of the training with "
            "0 <= start < stop <= 1"
        )


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
    weights never come back. The remaining weights go on training.

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
    check_pattern(pattern, check_density(density))
    refuse_others(DRAWS_NOTHING, seed=(seed, 0))
    check_way(start, stop)
    if every is not None and every < 1:
        raise ValueError(f"every={every} must be at least 1, in steps")
    if loop.get("validation") is not None:
        raise ValueError(
            "validation could choose an epoch before the network is sparse; leave it out, and the "
            "last epoch is the result"
        )
    objective = chosen_objective(attack, objective)
    network = copy_on(model, loop.get("device")).requires_grad_(True)
    layers = layers_to_mask(network, dense, pattern=pattern, allocate=allocate, density=density)
    constraint = Gradual(
        network, layers, density=density, pattern=pattern, allocate=allocate,
        start=start, stop=stop, every=every, epochs=epochs,
    )  # fmt: skip
    loop.setdefault("title", f"gradual {density:.0%}")
    history = train(
        network,
        loader,
        objective,
        constraint=constraint,
        epochs=epochs,
        optimizer=optimizer,
        **loop,
    )
    if constraint.done < constraint.updates:  # the loader gave fewer batches than its length
        constraint.prune(network, constraint.updates)
    return Ticket(constraint.masks(network), bake(network), history)
