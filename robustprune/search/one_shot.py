"""One-shot pruning: score every weight once, keep the best."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from attacks import Attack, evaluating
from robustprune.minmax import Batches, Natural, Objective, pair_of
from robustprune.minmax.batches import first_check, nothing_left
from robustprune.search.ticket import (
    Ticket,
    chosen_objective,
    copy_on,
    device_of,
    layers_to_mask,
)
from robustprune.sparsity import (
    Allocation,
    apply_masks,
    bake,
    check_allocation,
    check_density,
    check_pattern,
    criteria,
    group_weight,
    keep_best,
)
from robustprune.sparsity.criteria import CRITERIA, CriterionName


def prune_one_shot(
    model: nn.Module,
    loader: Batches | None = None,
    *,
    density: float,
    criterion: CriterionName = "magnitude",
    attack: Attack | None = None,
    objective: Objective | None = None,
    batches: int = 4,
    pattern: str = "element",
    allocate: Allocation = "layer",
    dense: Iterable[str] = (),
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Ticket:
    """Keep the weights that a criterion rates highest; nothing is trained.

    | criterion | score                               | needs data |
    | --------- | ----------------------------------- | ---------- |
    | magnitude | |w|                                 | no         |
    | random    | noise, the control                  | no         |
    | snip      | |w ∂L/∂w|                           | yes        |
    | grasp     | w (H ∂L/∂w)                         | yes        |
    | obd       | ½ h w², h the Hessian's diagonal    | yes        |
    | obd_ggn   | ½ h w², h Gauss-Newton's diagonal   | yes        |

    See `robustprune.sparsity.criteria` for the papers. Fine-tune the result with
    `finetune_ticket(..., mode="inherit")`.

    Args:
        model: copied, never changed: trained for magnitude and OBD; SNIP and GraSP were made for
            freshly initialised networks.
        loader: yields (x, y) batches; only for criteria that need data.
        density: kept fraction of the groups, in (0, 1].
        attack, objective: L is the loss of this objective, under attack where it attacks; default
            the plain cross-entropy. Not for magnitude and random, which know no loss.
        batches: how many batches of the loader the criterion sees.
        pattern, allocate, dense: as in `find_scratch_ticket`.
        seed: of random scores and random signs.

    Raises:
        ValueError: an option out of range or without effect, nothing to mask, or no loader where
            one is needed.
    """
    check_pattern(pattern, check_density(density))
    if criterion not in CRITERIA:
        raise ValueError(f"unknown criterion {criterion!r}; choose one of {', '.join(CRITERIA)}")
    if batches < 1:
        raise ValueError(f"batches={batches} must be at least 1")
    needs_data = criterion not in ("magnitude", "random")
    if needs_data and loader is None:
        raise ValueError(f"criterion {criterion!r} needs data; give a loader")
    if not needs_data and not (attack is None and objective is None):
        raise ValueError(
            f"criterion {criterion!r} looks at no loss, so that `attack` and `objective` have no "
            "effect; leave them out or take snip, grasp, obd or obd_ggn"
        )
    plain = attack is None and objective is None
    chosen = Natural() if plain else chosen_objective(attack, objective)
    network = copy_on(model, device).requires_grad_(True)
    layers = layers_to_mask(network, dense)
    groups = {name: group_weight(layer, pattern) for name, layer in layers.items()}
    check_allocation(allocate, groups, density)
    generator = torch.Generator().manual_seed(seed)
    if criterion == "magnitude":
        scores = criteria.magnitude(layers)
    elif criterion == "random":
        scores = criteria.random(layers, generator=generator)
    else:
        assert loader is not None
        seen = list(_batches(network, loader, batches))
        with evaluating(network):  # statistics of batch norm stay as they are
            scores = _from_data(criterion, network, layers, seen, chosen, generator)
    masks = keep_best(scores, layers, density=density, pattern=pattern, allocate=allocate)
    apply_masks(network, masks)
    return Ticket(masks, bake(network), [])


def _batches(network: nn.Module, loader: Batches, number: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The first batches on the network's device, each looked at."""
    where, batch = device_of(network), None
    for batch in itertools.islice(iter(loader), number):
        x, y = (part.to(where) for part in pair_of(batch))
        first_check(network, x, y)
        yield x, y
    if batch is None:
        raise nothing_left(0)


def _from_data(
    criterion: CriterionName,
    network: nn.Module,
    layers: dict[str, nn.Module],
    seen: list[tuple[Tensor, Tensor]],
    objective: Objective,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return objective(model, x, y, torch.inf).loss

    def logits(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return objective(model, x, y, torch.inf).logits

    if criterion == "snip":
        return criteria.snip(network, layers, seen, loss)
    if criterion == "grasp":
        return criteria.grasp(network, layers, seen, loss)
    if criterion == "obd":
        return criteria.obd(network, layers, seen, loss, generator=generator)
    return criteria.obd_ggn(network, layers, seen, logits, generator=generator)
