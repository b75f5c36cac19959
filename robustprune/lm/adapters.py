"""Low-rank adapters that can be merged into a pruned network without filling its zeros."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from typing_extensions import Unpack

from attacks import Attack
from robustprune.minmax import (
    Batches,
    LoopOptions,
    Objective,
    OptimizerLike,
    OptimizerSpec,
    known_by_its_call,
    train,
)
from robustprune.search.ticket import Ticket, chosen_objective, copy_on
from robustprune.sparsity import bake

ADAM = OptimizerSpec(name="adam", lr=5e-3, weight_decay=0.0)


class LowRank(nn.Module):
    """The parametrization W ↦ W + (α/r) (B A) ⊙ m, in which A and B are trained.

    See Hu et al. 2021 (arXiv 2106.09685, Eq. 3) for the product, and Munoz et al. 2024 (SQFT, arXiv
    2410.03750, Sec. 3.2) for the mask, which training sees as well. W has rows × columns entries; a
    kernel of a convolution is one row for each output.

    Args:
        weight: W, whose shape, dtype and device the adapter takes.
        mask: m.
    """

    mask: Tensor

    def __init__(
        self,
        weight: Tensor,
        mask: Tensor,
        rank: int,
        alpha: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        down = torch.empty(rank, columns)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))  # the product begins at zero
        self.scale = alpha / rank
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down).view_as(weight) * self.mask


@known_by_its_call
def tune_adapters(
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
    """Train low-rank changes of the kept weights, and merge them: the result is as sparse.

    Only the adapters are trained, so that memory for gradients is small. A plain LoRA (`tune_lora`)
    changes every entry, so that what it gives is dense again.

    Args:
        ticket: a pruned network with its masks.
        loader: batches (x, y); for a causal language model, `next_token_batches`.
        objective, attack: the loss to minimise; give exactly one of them.
        seed: the seed of the first factors.
        rank: r, the rank of a change, at least 1.
        alpha: α; the change is scaled by α/r.

    Returns:
        A Ticket with the merged network and the masks that were given.

    Raises:
        ValueError: an option is out of range, or a batch does not fit the model.
        TrainingDiverged: the loss became non-finite.
    """
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1")
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha={alpha} must be positive and finite")
    objective = chosen_objective(attack, objective)
    network = copy_on(ticket.model, loop.get("device")).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    moving: list[nn.Parameter] = []
    for name, mask in ticket.masks.items():
        owner, _, leaf = name.rpartition(".")
        module, weight = network.get_submodule(owner), network.get_parameter(name)
        adapter = LowRank(weight, mask.to(weight.device), rank, alpha, generator)
        parametrize.register_parametrization(module, leaf, adapter)
        moving += [adapter.down, adapter.up]
    loop.setdefault("title", f"adapters of rank {rank}")
    history = train(
        network, loader, objective, epochs=epochs, optimizer=optimizer, parameters=moving, **loop
    )
    return Ticket(ticket.masks, bake(network), history)
