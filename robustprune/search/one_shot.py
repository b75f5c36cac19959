"""One-shot pruning: score every weight once and keep the best."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from attacks import Attack, evaluating
from attacks.network import logits_of
from robustprune.minmax import Batches, History, Natural, Objective, pair_of
from robustprune.minmax.batches import first_check, nothing_left
from robustprune.minmax.result import points_of
from robustprune.search.ticket import (
    Ticket,
    chosen_objective,
    copy_on,
    device_of,
    layers_to_mask,
    refuse_others,
)
from robustprune.sparsity import (
    Allocation,
    apply_masks,
    bake,
    check_density,
    check_pattern,
    keep_best,
)
from robustprune.sparsity.criteria import CRITERIA, Scene


def prune_one_shot(
    model: nn.Module,
    loader: Batches | None = None,
    *,
    density: float,
    attack: Attack | None = None,
    objective: Objective | None = None,
    pattern: str = "element",
    allocate: Allocation = "layer",
    dense: Iterable[str] = (),
    seed: int = 0,
    criterion: str = "magnitude",
    batches: int = 4,
    device: torch.device | str | None = None,
) -> Ticket:
    """Keep the weights to which a criterion gives the highest scores. Nothing is trained.

    Criteria are the names in `robustprune.sparsity.criteria.CRITERIA`, whose rows say what each one
    scores. magnitude and random need no data; snip, grasp, obd and obd_ggn do. Fine-tune the result
    with `finetune_ticket(..., mode="inherit")`.

    Args:
        model: the network, which is copied and never changed. It must be trained for magnitude and
            OBD; SNIP and GraSP were made for newly initialised networks.
        loader: an iterable of (x, y) batches, only for criteria that need data.
        density: the fraction of the groups to keep, in (0, 1].
        attack, objective: the loss L of the criterion, under attack if it attacks; by default the
            plain cross-entropy. Give at most one, and neither for magnitude and random, which use
            no loss.
        batches: the number of batches of the loader that the criterion uses.
        pattern, allocate, dense: as in `find_scratch_ticket`.
        seed: the seed of random scores and random signs, for criteria that draw any.

    Raises:
        ValueError: an option is out of range or has no effect, nothing can be masked, or a loader
            is needed and missing.
    """
    check_pattern(pattern, check_density(density))
    if criterion not in CRITERIA:
        raise ValueError(f"unknown criterion {criterion!r}; choose one of {', '.join(CRITERIA)}")
    if batches < 1:
        raise ValueError(f"batches={batches} must be at least 1")
    needs_data = CRITERIA[criterion].needs_data
    if needs_data and loader is None:
        raise ValueError(f"criterion {criterion!r} needs data; give a loader")
    if not needs_data:
        blind = f"criterion {criterion!r} looks at no loss"
        refuse_others(blind, attack=(attack, None), objective=(objective, None))
    if not CRITERIA[criterion].draws:
        refuse_others(f"criterion {criterion!r} draws no random numbers", seed=(seed, 0))
    plain = attack is None and objective is None
    chosen = Natural() if plain else chosen_objective(attack, objective)
    network = copy_on(model, device).requires_grad_(True)
    layers = layers_to_mask(network, dense, pattern=pattern, allocate=allocate, density=density)
    scene = Scene(network, layers, torch.Generator().manual_seed(seed))
    if needs_data:
        assert loader is not None
        scene = replace(
            scene,
            batches=list(checked_batches(network, loader, chosen, batches)),
            loss=lambda x, y: chosen(network, x, y, torch.inf).loss,
            logits=lambda x, y: logits_of(network, points_of(chosen, network, x, y, torch.inf)),
        )
    with evaluating(network):  # statistics of batch norm do not change
        scores = CRITERIA[criterion].score(scene)
    masks = keep_best(scores, layers, density=density, pattern=pattern, allocate=allocate)
    del scores  # they are as large as the network
    apply_masks(network, masks)
    return Ticket(masks, bake(network), History())


def checked_batches(
    network: nn.Module, loader: Batches, objective: Objective, number: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the first batches, or all, on the network's device, after a check of each."""
    where, batch = device_of(network), None
    for batch in itertools.islice(iter(loader), number):
        x, y = (part.to(where) for part in pair_of(batch))
        first_check(network, x, y, objective)
        yield x, y
    if batch is None:
        raise nothing_left(0)
