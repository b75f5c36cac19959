"""Plain LoRA, by the library peft, to compare with: what it merges fills the zeros."""

from __future__ import annotations

import math
import re
from typing import Any, cast

import torch
from torch import nn
from typing_extensions import Unpack

from attacks import Attack
from robustprune.lm.adapters import ADAM
from robustprune.minmax import (
    Batches,
    LoopOptions,
    Objective,
    OptimizerLike,
    known_by_its_call,
    train,
)
from robustprune.search.ticket import Ticket, chosen_objective, copy_on
from robustprune.sparsity import MaskSet


@known_by_its_call
def tune_lora(
    ticket: Ticket,
    loader: Batches,
    objective: Objective | None = None,
    *,
    attack: Attack | None = None,
    seed: int = 0,
    epochs: int = 1,
    optimizer: OptimizerLike = ADAM,
    rank: int = 8,
    alpha: float = 16.0,
    **loop: Unpack[LoopOptions],
) -> Ticket:
    """Train low-rank changes of whole weights by peft, and merge them: the network is dense again.

    W ↦ W + (α/r) B A (Hu et al. 2021, arXiv 2106.09685, Eq. 3) changes every entry, also those that
    were pruned. `tune_adapters` keeps them at zero.

    Args:
        ticket: a pruned network with its masks; the layers of the masks get adapters.
        loader, objective, attack, rank, alpha: as in `tune_adapters`.
        seed: the seed of the first factors.

    Returns:
        A Ticket with the merged network, whose masks are all ones.

    Raises:
        ImportError: peft is missing.
        ValueError: an option is out of range, a layer is of a kind that peft does not know, or a
            batch does not fit the model.
        TrainingDiverged: the loss became non-finite.
    """
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1")
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha={alpha} must be positive and finite")
    try:
        import peft
    except ImportError as error:
        raise ImportError("plain LoRA needs peft; run pip install 'robustprune[lm]'") from error
    objective = chosen_objective(attack, objective)
    network = copy_on(ticket.model, loop.get("device")).requires_grad_(False)
    layers = [name.rpartition(".")[0] for name in ticket.masks]
    # as one expression, because peft takes a name in a list for every name that ends in it
    these = "|".join(map(re.escape, layers))
    config = peft.LoraConfig(
        r=rank, lora_alpha=cast(int, alpha), lora_dropout=0.0, target_modules=these
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, network)
    moving = [parameter for parameter in network.parameters() if parameter.requires_grad]
    loop.setdefault("title", f"LoRA of rank {rank}")
    history = train(
        network, loader, objective, epochs=epochs, optimizer=optimizer, parameters=moving, **loop
    )
    masks = MaskSet({name: torch.ones_like(mask) for name, mask in ticket.masks.items()})
    return Ticket(masks, _merged(network, layers), history)


def _merged(network: nn.Module, layers: list[str]) -> nn.Module:
    """Put back the layers themselves, with the changes added to their weights."""
    for name in layers:
        adapted: Any = network.get_submodule(name)
        adapted.merge()
        owner, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(owner), leaf, adapted.get_base_layer())
    return network
