"""Fine-tune a ticket: train the kept weights, or train the whole network from them."""

from __future__ import annotations

from typing import Literal, get_args

import torch
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
from robustprune.search.initialise import InitName, initialise
from robustprune.search.ticket import (
    EPOCHS,
    OPTIMIZER,
    Ticket,
    chosen_objective,
    copy_on,
    refuse_others,
)
from robustprune.sparsity import MaskSet, apply_masks, bake, maskable_layers

FinetuneMode = Literal["inherit", "reinit", "full"]
FINETUNE_MODES: tuple[FinetuneMode, ...] = get_args(FinetuneMode)


@known_by_its_call
def finetune_ticket(
    ticket: Ticket,
    loader: Batches,
    objective: Objective | None = None,
    *,
    attack: Attack | None = None,
    seed: int = 0,
    epochs: int = EPOCHS,
    optimizer: OptimizerLike = OPTIMIZER,
    mode: FinetuneMode = "inherit",
    init: InitName | None = None,
    **loop: Unpack[LoopOptions],
) -> Ticket:
    """Train the weights of a ticket that was found without training them.

    See Fu et al. 2021 (arXiv 2110.14068, Sec. 3.4).

    Args:
        objective, attack: the loss to minimise; give exactly one of them. `attack` stands for
            adversarial training with this attack.
        mode: "inherit" starts from the ticket's own random weights, m ⊙ θ; "reinit" draws new ones
            (`init`, `seed`) under the same mask; "full" starts from m ⊙ θ and drops the mask, so
            that the result is dense.
        init: only for mode "reinit": the distribution of the weights; None is kaiming_normal.
        seed: only for mode "reinit": the seed of these weights.

    Returns:
        A Ticket with the trained network and the same masks; for "full" the masks are all ones.

    Raises:
        ValueError: `mode` or `init` is unknown, or `init` or `seed` is given where nothing is
            drawn.
        TrainingDiverged: the loss became non-finite.
    """
    if mode not in FINETUNE_MODES:
        raise ValueError(f"unknown mode {mode!r}; choose one of {', '.join(FINETUNE_MODES)}")
    if mode != "reinit":
        refuse_others(f"mode {mode!r} draws no weights", init=(init, None), seed=(seed, 0))
    objective = chosen_objective(attack, objective)
    network = copy_on(ticket.model, loop.get("device")).requires_grad_(True)
    masks = ticket.masks
    if mode == "reinit":
        generator = torch.Generator().manual_seed(seed)
        initialise(maskable_layers(network), init or "kaiming_normal", generator=generator)
        _reset_statistics(network)
    if mode == "full":
        masks = MaskSet({name: torch.ones_like(mask) for name, mask in masks.items()})
    else:
        apply_masks(network, masks)
    loop.setdefault("title", f"fine-tune ({mode})")
    history = train(network, loader, objective, epochs=epochs, optimizer=optimizer, **loop)
    return Ticket(masks, bake(network), history)


def _reset_statistics(network: nn.Module) -> None:
    """Reset the running statistics of normalisation layers, which belong to the old weights."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
