"""Robust scratch tickets: a mask under which random weights are accurate and robust."""

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
    group_weight,
    maskable_layers,
)


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
    layer with the largest |score| (of equal ones the first); only the scores move, by the
    straight-through gradient. Everything else (weights, biases, affine normalisation) is frozen;
    normalisation statistics follow the data.

    Args:
        model: any module with Linear, Conv1d-3d or ConvTranspose1d-3d layers, mapping (N, ...) to
            logits (N, classes). It is copied, never changed.
        loader: yields (x, y) batches, y int64 class indices.
        density: fraction of weights (groups, under a coarser pattern) kept, in (0, 1].
        attack: the inner maximisation; exactly one of `attack` and `objective` is needed.
        objective: another outer objective in place of adversarial training with `attack`.
        init: how θ is drawn; None keeps the model's own weights, so that a trained model gives a
            robust *trained* ticket (RTT, ibid. Sec. 3.5).
        fan_scaling: draw θ of each masked layer for the fan that is left after masking (of the
            whole network on average where "global" leaves that to the scores).
        bias_scale: of the random biases, see `initialise`.
        thresholds: make the first layer's units random thresholds, see `draw_thresholds`.
        pattern: what lives or dies together, see `robustprune.sparsity.patterns`.
        allocate: top-k within each "layer", each "row" of a layer, over all layers ("global"),
            "erk", "igq", or a density for each layer by its parameter name, see
            `robustprune.sparsity.allot`.
        dense: layers to leave whole: "first", "last" or layer names. They keep their weights as
            drawn, unmasked and untrained.
        seed: of θ and of the first scores. Batch order and random starts of the attack come from
            the loader and torch's global generator.
        loop: how the training runs: the options of `LoopOptions`, which `train` explains.

    Returns:
        Ticket(masks, model, history).

    Raises:
        ValueError: density outside (0, 1], nothing to mask, an unknown name, an option without
            effect (`fan_scaling`, `bias_scale` or `thresholds` where init is None), a batch that
            does not fit the model.
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
    if bias_scale and all(getattr(layer, "bias", None) is None for layer in whole.values()):
        raise ValueError(f"bias_scale={bias_scale} has no effect: no layer has a bias")
    groups = {name: group_weight(layer, pattern) for name, layer in layers.items()}
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
    """The fraction that each masked layer keeps; a layer that stays whole isn't named."""
    if isinstance(allocate, Mapping):
        return dict(allocate)
    if allocate in ("erk", "igq"):
        zeros = {name: torch.zeros(g.number) for name, g in groups.items()}
        kept = allot(zeros, groups, density, allocate)
        return {name: kept[name] / g.number for name, g in groups.items()}
    return dict.fromkeys(groups, density)
