"""Prune a little, recover, prune on: the density falls in rounds, by the cubic schedule."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from robustprune.minmax import History
from robustprune.search.ticket import Ticket
from robustprune.sparsity import check_density


def density_of_round(density: float, rounds: int, number: int) -> float:
    """Return the density after round `number` of `rounds`, counted from 1.

    It is d_i = d + (1 − d)(1 − i/n)³ (Zhu & Gupta 2017, arXiv 1710.01878, Eq. 1 for densities), as
    in gradual pruning during one training: large steps at first, where weights are cheap.
    """
    return density + (1 - density) * (1 - number / rounds) ** 3


def prune_in_rounds(
    model: nn.Module,
    prune: Callable[[nn.Module, float], Ticket],
    recover: Callable[[Ticket, int], Ticket],
    *,
    density: float,
    rounds: int = 3,
) -> Ticket:
    """Prune to the density of each round, and recover after it.

    A round prunes what the recovery before it gave, so that its solver works with the network as it
    is. The weights that were pruned before are zero there; whether they can come back is up to the
    solver.

    Args:
        model: the dense network, which is not changed.
        prune: (network, density) -> ticket, such as `prune_layerwise` with calibration data, or a
            criterion of one-shot pruning.
        recover: (ticket, number of the round, from 1) -> ticket as sparse as before, such as
            `tune_adapters` or `finetune_ticket` with batches.
        density: the fraction of weights that is kept in the end.
        rounds: n, at least 1; with 1 round it is pruning followed by recovery.

    Returns:
        The ticket of the last round, with the records of all rounds in its history.

    Raises:
        ValueError: `density` or `rounds` is out of range, or a recovery filled pruned weights.
    """
    check_density(density)
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1")
    network, history = model, History()
    for number in range(1, rounds + 1):
        pruned = prune(network, density_of_round(density, rounds, number))
        ticket = recover(pruned, number)
        _check_as_sparse(ticket, pruned, number)
        history += [*pruned.history, *ticket.history]
        network = ticket.model
    return Ticket(ticket.masks, ticket.model, history)


def _check_as_sparse(ticket: Ticket, pruned: Ticket, number: int) -> None:
    for name, mask in pruned.masks.items():
        weight = ticket.model.get_parameter(name)
        if bool((weight[~mask.to(weight.device)] != 0).any()):
            raise ValueError(
                f"the recovery of round {number} filled weights of {name!r} that were pruned; take "
                "one that keeps the mask, such as tune_adapters or finetune_ticket"
            )
