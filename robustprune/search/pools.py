"""Lottery pools: a ticket is moved towards other tickets of the same network, without training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustprune.minmax import History, Validation
from robustprune.search.ticket import Ticket, device_of
from robustprune.sparsity import MaskSet, apply_masks, bake, check_pattern, groups_of
from robustprune.sparsity.apply import maskable_layers
from robustprune.sparsity.plain import copy_of

#: the shares of another ticket that are tried
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def pool_tickets(
    tickets: Sequence[Ticket],
    validation: Validation,
    *,
    shares: Sequence[float] = SHARES,
    pattern: str = "element",
) -> Ticket:
    """Move the first ticket towards the others, one after the other, where validation says so.

    For each other ticket θ' every (1 − a) θ + a θ' is tried. Each layer is cut back to the number
    of weights that the first ticket keeps there, by |w|. The best one replaces θ, if its accuracy
    is higher than that of θ. See Yin et al. 2023 (AAAI, "Lottery Pools", arXiv 2208.10842). The
    authors' code chooses by test accuracy and estimates batch norm anew; here held-out training
    examples decide, and the running statistics are interpolated as the weights are.

    Args:
        tickets: at least two, of one network and one start, such as those of neighbouring densities
            of a lottery; they stay as they are. The first gives the density.
        validation: accuracy on held-out training examples, under its attack if it has one, which
            should have a seed; `every` and `patience` have no effect.
        shares: the values of a, in (0, 1).
        pattern: which weights are kept together, as in the search that found the first ticket.

    Returns:
        A Ticket, which is at least as good as the first one on the validation examples.

    Raises:
        ValueError: there are fewer than two tickets, they are of different networks, or a share is
            not inside (0, 1).
    """
    check_pattern(pattern)
    _check(tickets, shares)
    first = tickets[0]
    device = device_of(first.model)
    best, masks = copy_of(first.model), first.masks
    score = _score(validation, best, device)
    for other in tickets[1:]:
        here, there = best.state_dict(), other.model.state_dict()
        for share in shares:
            trial = copy_of(first.model)
            trial.load_state_dict(between(here, there, share))
            kept = cut(trial, first.masks, pattern)
            if (value := _score(validation, trial, device)) > score:
                score, best, masks = value, trial, kept
    return Ticket(masks, best, History())


def cut(network: nn.Module, masks: MaskSet, pattern: str) -> MaskSet:
    """Keep as many groups of each weight as a mask does, those of the largest Σ |w|, in place.

    Returns:
        The new masks.
    """
    groups, chosen = groups_of(maskable_layers(network), pattern), {}
    for name, mask in masks.items():
        weight, of = network.get_parameter(name).detach(), groups[name]
        kept = int((of.reduce(mask.to(weight)) > 0).sum())
        chosen[name] = of.expand(of.choose(of.reduce(weight.abs()), kept))
    apply_masks(network, MaskSet(chosen))
    bake(network)
    return MaskSet(chosen)


def between(here: dict[str, Tensor], there: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return (1 − share) · here + share · there of what is floating point and differs; the rest is
    here's. (Between −∞ and −∞, as in the mask of causal attention, lies NaN.)"""
    between = {}
    for name, value in here.items():
        other = there[name].to(value)
        mixed = value.lerp(other, share) if value.is_floating_point() else value
        between[name] = torch.where(value == other, value, mixed)
    return between


def _score(validation: Validation, model: nn.Module, device: torch.device) -> float:
    clean, robust = validation(model, device)
    return clean if robust is None else robust


def _check(tickets: Sequence[Ticket], shares: Sequence[float]) -> None:
    if len(tickets) < 2:
        raise ValueError(f"a pool needs at least two tickets, got {len(tickets)}")
    if not shares or not all(0 < share < 1 for share in shares):
        raise ValueError(f"shares={tuple(shares)} must lie inside (0, 1), and there must be one")
    shapes = [
        {name: tuple(value.shape) for name, value in ticket.model.state_dict().items()}
        for ticket in tickets
    ]
    for number, other in enumerate(shapes[1:], start=2):
        if other != shapes[0]:
            raise ValueError(
                f"ticket {number} is of another network than the first, so that nothing lies "
                "between their weights"
            )
