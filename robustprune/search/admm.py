"""Pruning by ADMM while the network trains, under attack if the objective attacks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
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
from robustprune.search.admm_constraint import Admm, soft_threshold
from robustprune.search.ticket import (
    DRAWS_NOTHING,
    EPOCHS,
    OPTIMIZER,
    Ticket,
    chosen_objective,
    copy_on,
    layers_to_mask,
    refuse_others,
)
from robustprune.sparsity import (
    Allocation,
    MaskSet,
    apply_masks,
    bake,
    check_density,
    check_pattern,
    keep_best,
)
from robustprune.sparsity.criteria import at_least_float32


@known_by_its_call
def prune_admm(
    model: nn.Module,
    loader: Batches,
    *,
    density: float | None = None,
    attack: Attack | None = None,
    objective: Objective | None = None,
    pattern: str = "element",
    allocate: Allocation = "layer",
    dense: Iterable[str] = (),
    seed: int = 0,
    epochs: int = EPOCHS,
    optimizer: OptimizerLike = OPTIMIZER,
    l1: float | None = None,
    rho: float = 1e-3,
    rho_growth: float = 1.3,
    rho_max: float = 1.0,
    every: int = 20,
    bits: int | None = None,
    hold: float = 0.5,
    **loop: Unpack[LoopOptions],
) -> Ticket:
    """Draw the weights of a (pretrained) network towards a sparsity set while it is trained:

        min_W E max_{‖δ‖≤ε} ℓ(f(x+δ; W), y)   s.t. W ∈ S      (`density`)
        min_W E max_{‖δ‖≤ε} ℓ(f(x+δ; W), y) + λ‖W‖₁            (`l1` = λ)

    (Ye et al. 2019, arXiv 1903.12561, alg. 1; see `Admm`). With `bits`, S has only networks whose
    kept weights take at most 2^bits different values in each layer (Gui et al. 2019). At the end
    all weights outside the mask are set to zero. Retrain the result with `finetune_ticket(...,
    mode="inherit")`. A result of `bits` is ready: retraining would give every weight a value of its
    own.

    Args:
        model: the network, which is copied and never changed; start from one that was trained with
            the same objective.
        loader: an iterable of (x, y) batches.
        density: the fraction of the groups to keep, in (0, 1]; give exactly one of `density` and
            `l1`.
        l1: λ > 0, the weight of the l1 norm. The mask is the support of the last Z, with at least
            one weight in each layer.
        attack: the inner attack; give exactly one of `attack` and `objective`.
        seed: it must be 0, because this search draws no random numbers.
        epochs, optimizer: as in `train`; the paper uses 200 epochs and OptimizerSpec(lr=0.01,
            weight_decay=1e-4).
        rho: ρ of the first epoch; each update multiplies it by `rho_growth`, up to `rho_max`.
        every: the number of epochs between two updates of Z and U, at most `epochs`.
        bits: None, or b from 1 to 16: the kept weights of each layer take at most 2^b values
            besides 0, in the end exactly so. The last figure "bits" of the records says how many
            bits the masked layers need, see `robustprune.sparsity.bits_of`.
        hold: only with `bits`: the fraction of the epochs after which the mask stays as it is; the
            others are for the weights that are left.
        pattern: see `robustprune.sparsity.patterns`; it must be "element" with `l1`.
        allocate: see `robustprune.sparsity.allot`; it must be "layer" with `l1`, whose threshold is
            the same for all layers.
        dense: layers that are not masked: "first", "last" or layer names.
        loop: the options of `LoopOptions` for the training, which `train` explains; with `bits` a
            validation chooses an epoch after `hold`. It measures the network that would be
            returned.

    Returns:
        Ticket(masks, model, history); the records contain the residuals, see `Admm`.

    Raises:
        ValueError: an option is out of range, nothing can be masked, or a batch does not fit.
        TrainingDiverged: the loss became non-finite.
    """
    refuse_others(DRAWS_NOTHING, seed=(seed, 0))
    if (density is None) == (l1 is None):
        raise ValueError("give either `density` or `l1`, and not both")
    if l1 is not None and not l1 > 0:
        raise ValueError(f"l1={l1} must be positive")
    if density is not None:
        check_pattern(pattern, check_density(density))
    else:
        one = "with `l1`, one threshold decides for each single weight"
        refuse_others(one, pattern=(pattern, "element"), allocate=(allocate, "layer"))
    _check(rho, rho_growth, rho_max, every=every, epochs=epochs)
    last = held_after(bits, hold, epochs, l1)
    objective = chosen_objective(attack, objective)
    network = copy_on(model, loop.get("device")).requires_grad_(True)
    layers = layers_to_mask(network, dense, pattern=pattern, allocate=allocate, density=density)

    def support(v: Mapping[str, Tensor], rho: float) -> MaskSet:
        if l1 is not None:
            return nonzero(soft_threshold(v, l1 / rho), v)
        assert density is not None
        # squares of half precision would be 0 below 2.4e-4
        squares = {name: at_least_float32(value) ** 2 for name, value in v.items()}
        return keep_best(squares, layers, density=density, pattern=pattern, allocate=allocate)

    constraint = Admm(
        layers, support, l1=l1, rho=rho, rho_growth=rho_growth, rho_max=rho_max, every=every,
        bits=bits, hold=last,
    )  # fmt: skip
    loop.setdefault("title", "ADMM")
    history = train(
        network,
        loader,
        objective,
        constraint=constraint,
        epochs=epochs,
        optimizer=optimizer,
        **loop,
    )
    constraint.settle()
    masks = constraint.masks(network)
    with torch.no_grad():
        for name, weight in constraint.returned(network).items():
            network.get_parameter(name).copy_(weight)
    apply_masks(network, masks)
    return Ticket(masks, bake(network), history)


def nonzero(z: Mapping[str, Tensor], v: Mapping[str, Tensor]) -> MaskSet:
    """Return where z is not zero; in a layer of zeros, the position of the largest |v|."""
    masks = {}
    for name, value in z.items():
        mask = value != 0
        if not bool(mask.any()):
            mask.view(-1)[v[name].abs().argmax()] = True
        masks[name] = mask
    return MaskSet(masks)


def _check(rho: float, rho_growth: float, rho_max: float, *, every: int, epochs: int) -> None:
    for name, value in {"rho": rho, "rho_max": rho_max, "rho_growth": rho_growth}.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value} must be positive and finite")
    if rho > rho_max:
        raise ValueError(f"rho={rho} must not exceed rho_max={rho_max}, up to which it grows")
    if every < 1:
        raise ValueError(f"every={every} must be at least 1, in epochs")
    if every > epochs:
        raise ValueError(
            f"every={every} must not exceed epochs={epochs}: Z and U would never be updated"
        )


def held_after(bits: int | None, hold: float, epochs: int, l1: float | None) -> int:
    """Return the epoch after which the mask stays, or 0 for none.

    Raises:
        ValueError: an option has no effect or is out of range, or no epoch is before or after it.
    """
    if bits is None:
        refuse_others("without `bits`, the mask moves until the end", hold=(hold, 0.5))
        return 0
    if l1 is not None:
        raise ValueError(f"bits={bits} goes with `density`, not with `l1`; leave one of them out")
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
        raise ValueError(f"bits={bits!r} must be a whole number from 1 to 16, or None")
    last = round(hold * epochs) if 0 < hold < 1 else 0
    if not 1 <= last < epochs:
        raise ValueError(
            f"hold={hold} of epochs={epochs} must leave epochs before it and after it; take a "
            "fraction such as 0.5"
        )
    return last
