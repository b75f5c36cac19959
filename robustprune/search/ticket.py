"""What every search returns, and what every search asks first."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from typing_extensions import Unpack

from attacks import Attack
from robustprune.minmax import (
    Adversarial,
    Batches,
    Constraint,
    EpochRecord,
    LoopOptions,
    Objective,
    OptimizerSpec,
    Validation,
    train,
)
from robustprune.sparsity import MaskSet


@dataclass(frozen=True)
class Ticket:
    """A sub-network and how it was found.

    Attributes:
        masks: which weights are kept.
        model: the network with the mask baked in: plain parameters, pruned ones exactly zero.
        history: one record an epoch.
    """

    masks: MaskSet
    model: nn.Module
    history: list[EpochRecord]


def chosen_objective(attack: Attack | None, objective: Objective | None) -> Objective:
    """The objective given, or adversarial training with the attack given.

    Raises:
        ValueError: both or neither.
    """
    if objective is not None and attack is None:
        return objective
    if attack is not None and objective is None:
        return Adversarial(attack)
    raise ValueError("give either `attack` or `objective`, not both and not neither")


class Learned(Constraint, Protocol):
    """A constraint whose own parameters, scores or gates, move in place of the weights."""

    def parameters(self) -> list[nn.Parameter]: ...


def learn_masks(
    network: nn.Module,
    loader: Batches,
    objective: Objective,
    constraint: Learned,
    *,
    optimizer: OptimizerSpec,
    epochs: int,
    validation: Validation | None,
    **loop: Unpack[LoopOptions],
) -> tuple[MaskSet, list[EpochRecord]]:
    """Train what the constraint put on a frozen network; its masks, and a record an epoch."""
    history = train(
        network,
        loader,
        objective,
        optimizer=optimizer,
        epochs=epochs,
        parameters=constraint.parameters(),
        constraint=constraint,
        validation=validation,
        **loop,
    )
    return constraint.masks(network), history


def copy_on(model: nn.Module, device: torch.device | str | None) -> nn.Module:
    """A copy of the model, on the device if one is given, to search in."""
    network = copy.deepcopy(model)
    return network if device is None else network.to(device)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device
