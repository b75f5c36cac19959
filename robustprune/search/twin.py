"""Twin-Rep: each weight is a product of two while the network is trained, and is merged at the end.

    w = u ⊙ v ⊙ m,   ∂L/∂u = (∂L/∂w) ⊙ v ⊙ m,   ∂L/∂v = (∂L/∂w) ⊙ u ⊙ m

(Li et al. 2023, AAAI, "Learning adversarially robust sparse networks via weight
reparameterization"). A product moves the faster the larger its factors are, so that large weights
grow and small ones stay small, and weight decay of the factors acts on w as an l1 norm does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from typing_extensions import Unpack

from attacks import Attack
from robustprune.minmax import (
    Batches,
    Constraint,
    LoopOptions,
    Objective,
    OptimizerLike,
    known_by_its_call,
    masks_of,
    set_masks,
    train,
)
from robustprune.run.runtime import generator_named
from robustprune.search.ticket import (
    EPOCHS,
    OPTIMIZER,
    Ticket,
    chosen_objective,
    copy_on,
    layers_to_mask,
)
from robustprune.sparsity import (
    Allocation,
    Masked,
    MaskSet,
    bake,
    check_density,
    check_pattern,
    groups_of,
    keep_best,
    leaf_of,
    weights_of,
)
from robustprune.sparsity.criteria import at_least_float32


class Twin(Masked):
    """The parametrization u ↦ u ⊙ v ⊙ m, where v is a parameter, too."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__(torch.ones_like(factor, dtype=torch.bool))
        self.factor = nn.Parameter(factor)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factor * self.mask


def make_twins(layers: Mapping[str, nn.Module], *, seed: int) -> None:
    """Make a product of each weight in place: u is the weight, and v is U(−1/√n, 1/√n), where an
    output has n inputs, as torch draws weights at first (Kaiming uniform with a = √5). All are
    kept."""
    # not the seed itself: a network drawn with it would have u = ±v, and products of one sign
    generator = generator_named(f"twin {seed}")
    for (name, weight), groups in zip(
        weights_of(layers).items(), groups_of(layers).values(), strict=True
    ):
        drawn = 2 * torch.rand(weight.shape, generator=generator) - 1
        factor = (drawn / groups.fan_in**0.5).to(weight)
        parametrize.register_parametrization(
            layers[name], leaf_of(layers[name], name), Twin(factor), unsafe=True
        )


class TwinCut(Constraint):
    """Keep the groups with the largest Σ (u v)² after one epoch; the mask stays from then on.

    The record of an epoch has the density.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        *,
        density: float,
        pattern: str,
        allocate: Allocation,
        epoch: int,
    ) -> None:
        self.layers, self.density, self.epoch = layers, density, epoch
        self.pattern, self.allocate = pattern, allocate

    def bind(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps_per_epoch: int | None,
        epochs: int,
    ) -> None:
        self.optimizer = optimizer

    @torch.no_grad()
    def after_epoch(self, model: nn.Module, epoch: int) -> dict[str, float]:
        if epoch == self.epoch:
            products = weights_of(self.layers)
            # squares of half precision would be 0 below 2.4e-4
            squares = {name: at_least_float32(w) ** 2 for name, w in products.items()}
            masks = keep_best(
                squares, self.layers, density=self.density, pattern=self.pattern,
                allocate=self.allocate,
            )  # fmt: skip
            set_masks(model, masks, self.optimizer)
        return {"density": self.masks(model).density}

    def masks(self, model: nn.Module) -> MaskSet:
        return masks_of(model)


@known_by_its_call
def prune_twin(
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
    cut: float = 0.1,
    **loop: Unpack[LoopOptions],
) -> Ticket:
    """Train a network whose weights are products u ⊙ v, cut it once to the density, and merge the
    products. See the head of this module and `TwinCut`.

    Args:
        model: a new network, which is copied and never changed. Products of two first weights are
            small, so that it needs normalisation layers (batch norm, for example).
        loader: an iterable of (x, y) batches.
        density: the fraction of the groups to keep, in (0, 1].
        attack: the inner attack; give exactly one of `attack` and `objective`.
        pattern: see `robustprune.sparsity.patterns`.
        allocate: see `robustprune.sparsity.allot`; the paper takes "global".
        dense: layers that are not masked: "first", "last" or layer names; their weights are no
            products.
        seed: the seed of v.
        cut: the fraction of the epochs after which the network is cut; the paper cuts after 10 of
            100.
        loop: the options of `LoopOptions` for the training, which `train` explains.

    Returns:
        Ticket(masks, model, history).

    Raises:
        ValueError: an option is out of range, nothing can be masked, or a validation is given (it
            could choose an epoch that is not sparse yet).
        TrainingDiverged: the loss became non-finite.
    """
    check_pattern(pattern, check_density(density))
    last = cut_after(cut, epochs)
    if loop.get("validation") is not None:
        raise ValueError(
            "validation could choose an epoch before the network is sparse; leave it out, and the "
            "last epoch is the result"
        )
    objective = chosen_objective(attack, objective)
    network = copy_on(model, loop.get("device")).requires_grad_(True)
    layers = layers_to_mask(network, dense, pattern=pattern, allocate=allocate, density=density)
    make_twins(layers, seed=seed)
    constraint = TwinCut(layers, density=density, pattern=pattern, allocate=allocate, epoch=last)
    loop.setdefault("title", f"Twin-Rep {density:.0%}")
    history = train(
        network,
        loader,
        objective,
        constraint=constraint,
        epochs=epochs,
        optimizer=optimizer,
        **loop,
    )
    return Ticket(constraint.masks(network), bake(network), history)


def cut_after(cut: float, epochs: int) -> int:
    """Return the number of the epoch after which the network is cut.

    Raises:
        ValueError: there is no epoch before the cut, or none after it.
    """
    last = max(round(cut * epochs), 1) if 0 < cut < 1 else 0
    if not 1 <= last < epochs:
        raise ValueError(
            f"cut={cut} of epochs={epochs} must leave an epoch before it and one after it; take a "
            "fraction such as 0.1, and at least two epochs"
        )
    return last
