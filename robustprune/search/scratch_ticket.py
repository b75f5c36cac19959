"""Robust scratch tickets: a mask with which a network of random weights is accurate and robust."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
)
from robustprune.search.initialise import InitName, draw_thresholds, initialise
from robustprune.search.popup import ScoreTopK, random_scores
from robustprune.search.ticket import (
    EPOCHS,
    OPTIMIZER,
    Ticket,
    chosen_objective,
    copy_on,
    layers_to_mask,
    learn_masks,
    refuse_others,
)
from robustprune.sparsity import (
    Allocation,
    Groups,
    allot,
    bake,
    check_density,
    check_pattern,
    groups_of,
    leaf_of,
    maskable_layers,
)
from robustprune.sparsity.matrices import bias_of


@known_by_its_call
def find_scratch_ticket(
    model: nn.Module,
    loader: Batches,
    *,
    density: float,
    attack: Attack | None = None,
    objective: Objective | None = None,
    pattern: str = "element",
    allocate: Allocation = "layer",
    dense: Iterable[str] = (),
    seed: int = 0,
    epochs: int = EPOCHS,
    optimizer: OptimizerLike = OPTIMIZER,
    init: InitName | None = "signed_kaiming_constant",
    fan_scaling: bool = False,
    bias_scale: float = 0.0,
    thresholds: tuple[float, float] | None = None,
    **loop: Unpack[LoopOptions],
) -> Ticket:
    """Search the mask m̂ of a network whose weights θ are never trained:

        min_m  Σ_i max_{‖δ‖≤ε} ℓ(f(m̂ ⊙ θ, x_i + δ), y_i)   s.t. ‖m̂‖₀ ≤ k

    (Fu et al. 2021, arXiv 2110.14068, Eq. 2). m̂ keeps the k = ⌈density · numel⌉ weights of each
    layer with the largest |score| (of equal ones the first). Only the scores are trained, by the
    straight-through gradient. Everything else (weights, biases, affine normalisation) is frozen,
    but normalisation statistics follow the data.

    Args:
        model: a module with Linear, Conv1d to Conv3d or ConvTranspose1d to ConvTranspose3d layers
            that maps (N, ...) to logits (N, classes). It is copied and never changed.
        loader: an iterable of batches (x, y), where y are int64 class indices.
        density: the fraction of weights (or of groups, for a coarser pattern) to keep, in (0, 1].
        attack: the inner attack; give exactly one of `attack` and `objective`.
        objective: another objective than adversarial training with `attack`.
        init: the distribution of θ; None keeps the model's own weights, so that a trained model
            gives a robust trained ticket (RTT, ibid. Sec. 3.5).
        fan_scaling: whether θ of each masked layer is drawn for the fan that is left after masking
            (with "global", for the average fan of the whole network).
        bias_scale: the scale of random biases, see `initialise`.
        thresholds: (lo, hi) for random thresholds in the first layer, see `draw_thresholds`; None
            for none.
        pattern: which weights are kept or removed together, see `robustprune.sparsity.patterns`.
        allocate: top-k within each "layer", within each "row" of a layer, over all layers
            ("global"), "erk", or a density for each layer by its parameter name; see
            `robustprune.sparsity.allot`.
        dense: layers that are not masked: "first", "last" or layer names. Their weights are drawn
            and not trained.
        seed: the seed of θ and of the first scores. The order of batches and random starts of the
            attack depend on the loader and on torch's global generator.
        loop: the options of `LoopOptions` for the training, which `train` explains.

    Returns:
        Ticket(masks, model, history).

    Raises:
        ValueError: `density` is outside (0, 1], nothing can be masked, a name is unknown, an option
            has no effect (`fan_scaling`, `bias_scale` or `thresholds` if `init` is None), or a
            batch does not fit the model.
        TrainingDiverged: the loss became non-finite.
    """
    check_pattern(pattern, check_density(density))
    objective = chosen_objective(attack, objective)
    if init is None:
        refuse_others(
            "init=None draws no weights",
            fan_scaling=(fan_scaling, False),
            bias_scale=(bias_scale, 0.0),
            thresholds=(thresholds, None),
        )
    network = copy_on(model, loop.get("device"))
    layers = layers_to_mask(network, dense, pattern=pattern, allocate=allocate, density=density)
    whole = maskable_layers(network)
    if bias_scale and all(bias_of(layer, leaf_of(layer, n)) is None for n, layer in whole.items()):
        raise ValueError(f"bias_scale={bias_scale} has no effect: no layer has a bias")
    groups = groups_of(layers, pattern)
    generator = torch.Generator().manual_seed(seed)
    if init is not None:
        initialise(
            whole,
            init,
            generator=generator,
            density=_kept_shares(groups, density, allocate) if fan_scaling else 1.0,
            bias_scale=bias_scale,
        )
        if thresholds is not None:
            draw_thresholds(network, thresholds, generator=generator)
    network.requires_grad_(False)
    constraint = ScoreTopK(
        layers,
        density=density,
        pattern=pattern,
        allocate=allocate,
        scores=random_scores(layers, generator=generator),
    )
    loop.setdefault("title", f"ticket {density:.0%}")
    masks, history = learn_masks(
        network, loader, objective, constraint, epochs=epochs, optimizer=optimizer, **loop
    )
    return Ticket(masks, bake(network).requires_grad_(True), history)


def _kept_shares(
    groups: Mapping[str, Groups], density: float, allocate: Allocation
) -> dict[str, float]:
    """Return the fraction that each masked layer keeps, without layers that are not masked."""
    if isinstance(allocate, Mapping):
        return dict(allocate)
    if allocate in ("erk", "igq"):
        zeros = {name: torch.zeros(g.number) for name, g in groups.items()}
        kept = allot(zeros, groups, density, allocate)
        return {name: kept[name] / g.number for name, g in groups.items()}
    return dict.fromkeys(groups, density)
