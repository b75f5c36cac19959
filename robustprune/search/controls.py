"""The controls that test what a lottery ticket claims: the same training with one difference."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import nn
from typing_extensions import Unpack

from attacks import Attack
from robustprune.minmax import (
    Batches,
    History,
    LoopOptions,
    Objective,
    OptimizerLike,
    known_by_its_call,
    train,
)
from robustprune.search.initialise import InitName, initialise
from robustprune.search.lottery import LotteryTicket
from robustprune.search.ticket import (
    EPOCHS,
    OPTIMIZER,
    Ticket,
    chosen_objective,
    copy_on,
    refuse_others,
)
from robustprune.sparsity import MaskSet, apply_masks, bake, maskable_layers

ControlName = Literal["random", "reinit"]
CONTROLS: tuple[ControlName, ...] = get_args(ControlName)


@known_by_its_call
def train_control(
    ticket: LotteryTicket,
    loader: Batches,
    kind: ControlName,
    *,
    attack: Attack | None = None,
    objective: Objective | None = None,
    seed: int = 0,
    epochs: int = EPOCHS,
    optimizer: OptimizerLike = OPTIMIZER,
    init: InitName | None = None,
    **loop: Unpack[LoopOptions],
) -> Ticket:
    """Train a control of a ticket, which differs from it in one thing and which it must beat.

    Args:
        kind: "random" shuffles the mask within each layer, so that every layer keeps the same
            number of weights (Frankle et al. 2021, arXiv 2009.08576, Sec. 4); "reinit" keeps the
            mask and draws new weights (arXiv 1803.03635, Sec. 2).
        init: only for kind "reinit": the distribution of the weights; None is kaiming_normal.
        seed: the seed of the new weights or of the shuffling.

    Raises:
        ValueError: `kind` is unknown, or `init` is given where nothing is drawn.
    """
    if kind not in CONTROLS:
        raise ValueError(f"unknown control {kind!r}; choose one of {', '.join(CONTROLS)}")
    if kind != "reinit":
        refuse_others(f"kind {kind!r} draws no weights", init=(init, None))
    objective = chosen_objective(attack, objective)
    network = copy_on(ticket.start, loop.get("device")).requires_grad_(True)
    masks = _mask_control(network, ticket.masks, kind, init or "kaiming_normal", seed)
    loop.setdefault("title", f"control ({kind})")
    history = train(network, loader, objective, epochs=epochs, optimizer=optimizer, **loop)
    return Ticket(masks, bake(network), history)


def shuffled_control(ticket: LotteryTicket, *, seed: int = 0) -> Ticket:
    """Return the "random" control of a ticket in which nothing is trained."""
    network = copy_on(ticket.start, None)
    masks = _mask_control(network, ticket.masks, "random", "kaiming_normal", seed)
    return Ticket(masks, bake(network), History())


def _mask_control(
    network: nn.Module, masks: MaskSet, kind: ControlName, init: InitName, seed: int
) -> MaskSet:
    """Prepare the network from which a control is trained, and return its masks."""
    generator = torch.Generator().manual_seed(seed)
    masks = shuffled(masks, generator) if kind == "random" else masks
    if kind == "reinit":
        initialise(maskable_layers(network), init, generator=generator)
    apply_masks(network, masks)
    return masks


def shuffled(masks: MaskSet, generator: torch.Generator) -> MaskSet:
    """Shuffle the entries of each mask."""
    return MaskSet(
        {
            name: mask.view(-1)[torch.randperm(mask.numel(), generator=generator)].view(mask.shape)
            for name, mask in masks.items()
        }
    )
