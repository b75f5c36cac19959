"""What every search returns, and the checks that every search makes first."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from typing_extensions import Unpack

from attacks import Attack
from attacks.network import unwrapped
from robustprune.minmax import (
    Adversarial,
    Batches,
    History,
    Learned,
    LoopOptions,
    Objective,
    OptimizerLike,
    OptimizerSpec,
    train,
)
from robustprune.minmax.result import check_objective
from robustprune.sparsity import (
    Allocation,
    Coverage,
    Folded,
    LeftOut,
    MaskSet,
    bake,
    check_allocation,
    coverage,
    groups_of,
    maskable_layers,
)
from robustprune.sparsity.apply import refuse_masked
from robustprune.sparsity.coverage import left_out_of
from robustprune.sparsity.plain import computed_weights, copy_of

#: the defaults of every search and every config section that has no other default
EPOCHS = 100
OPTIMIZER = OptimizerSpec()


@dataclass(frozen=True, repr=False)
class Ticket:
    """A sub-network and the history of its search.

    Attributes:
        masks: the masks of the kept weights.
        model: the network with the mask baked in: plain parameters, where pruned ones are exactly
            zero.
        history: one record for each epoch.
    """

    masks: MaskSet
    model: nn.Module
    history: History

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.coverage}; {self.history!r})"

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self.coverage))}</p>{self.masks._repr_html_()}"

    @property
    def coverage(self) -> Coverage:
        """What the masks cover, what they leave out, and the density of the whole network."""
        return coverage(self.model, self.masks)


def chosen_objective(attack: Attack | None, objective: Objective | None) -> Objective:
    """Return the given objective, or adversarial training with the given attack.

    Raises:
        ValueError: both are given, or neither, or `check_objective` refuses the objective.
    """
    if objective is not None and attack is None:
        check_objective(objective)
        return objective
    if attack is not None and objective is None:
        return Adversarial(attack)
    raise ValueError("give either `attack` or `objective`, and not both")


#: why a search that draws no random numbers refuses a seed
DRAWS_NOTHING = (
    "the search draws nothing by itself; the order of batches comes from the loader, and random "
    "starts of an attack from torch.manual_seed"
)


def refuse_others(why: str, **options: tuple[object, object]) -> None:
    """Raise a ValueError if an option (value, its only allowed value) has another value."""
    for name, (value, only) in options.items():
        if value != only:
            raise ValueError(f"{name}={value!r} has no effect; leave it at {only!r}: {why}")


def learn_masks(
    network: nn.Module,
    loader: Batches,
    objective: Objective,
    constraint: Learned,
    *,
    epochs: int,
    optimizer: OptimizerLike,
    **loop: Unpack[LoopOptions],
) -> tuple[MaskSet, History]:
    """Train a constraint's parameters on a frozen network; return masks and records."""
    history = train(
        network,
        loader,
        objective,
        epochs=epochs,
        optimizer=optimizer,
        parameters=constraint.parameters(),
        constraint=constraint,
        **loop,
    )
    return constraint.masks(network), history


def copy_on(model: nn.Module, device: torch.device | str | None) -> nn.Module:
    """Return a copy of the model with plain weights for a search, on the device if one is given.

    Computed weights become plain ones, see `robustprune.sparsity.plain`, and a `Folded` warning
    explains what that means.

    Raises:
        ValueError: the network is masked already, is a TorchScript module, has lazy layers that
            have seen no batch yet, or cannot be copied.
    """
    check_searchable(model)
    network = copy_of(model)
    if computed := computed_weights(network):
        _warn_of_folding(computed)
    bake(network)
    return network if device is None else network.to(device)


def check_searchable(model: nn.Module) -> None:
    """Refuse a network in which no search is possible.

    Raises:
        ValueError: the network is masked already, or has lazy layers that have seen no batch yet.
    """
    model = unwrapped(model)
    refuse_masked(model)
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} has lazy layers without weights; call it on a batch first"
        )


def _warn_of_folding(computed: Mapping[str, str]) -> None:
    by_kind: dict[str, list[str]] = {}
    for name, what in computed.items():
        by_kind.setdefault(what, []).append(name)
    for what, names in by_kind.items():
        listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        means = (
            "pruned weights are ordinary zeros from now on, which training may change"
            if what == "torch.nn.utils.prune"
            else "it is not kept up while weights are masked or trained"
        )
        warnings.warn(
            f"{what} of {listed} is folded into plain weights on the search's own copy; {means}",
            Folded,
            stacklevel=4,
        )


def layers_to_mask(
    network: nn.Module,
    dense: Iterable[str],
    *,
    pattern: str,
    allocate: Allocation,
    density: float | None,
) -> dict[str, nn.Module]:
    """Return `maskable_layers`, and warn (`LeftOut`) if a notable share of the weights has no mask.

    Raises:
        ValueError: as in `maskable_layers` and `check_allocation`.
    """
    layers = maskable_layers(network, dense=dense)
    warn_of_left_out(network, stacklevel=4)
    check_allocation(allocate, groups_of(layers, pattern), density)
    return layers


def warn_of_left_out(network: nn.Module, *, stacklevel: int = 3) -> None:
    """Warn with the names of the weights that a search cannot mask, if their share is notable."""
    if (said := left_out_of(network)) is not None:
        warnings.warn(said, LeftOut, stacklevel=stacklevel)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's parameters."""
    return next(model.parameters()).device
