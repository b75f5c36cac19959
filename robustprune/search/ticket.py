"""What every search returns, and what every search asks first."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from attacks import Attack
from robustprune.minmax import Adversarial, EpochRecord, Objective
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


def copy_on(model: nn.Module, device: torch.device | str | None) -> nn.Module:
    """A copy of the model, on the device if one is given, to search in."""
    network = copy.deepcopy(model)
    return network if device is None else network.to(device)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device
