"""L0 gates for any network: weights and random gates of their groups are trained together."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn
from typing_extensions import Unpack

from attacks import Attack
from robustprune.minmax import (
    Batches,
    LoopOptions,
    Objective,
    OptimizerLike,
    OptimizerSpec,
    known_by_its_call,
)
from robustprune.minmax.optimizers import understood
from robustprune.search.l0_gates import L0Gates
from robustprune.search.ticket import (
    EPOCHS,
    Ticket,
    chosen_objective,
    copy_on,
    layers_to_mask,
    learn_masks,
    refuse_others,
)
from robustprune.sparsity import (
    Allocation,
    apply_masks,
    bake,
    check_density,
    check_pattern,
    groups_of,
)

L0_OPTIMIZER = OptimizerSpec(name="adam", lr=1e-2, weight_decay=0.0)


@known_by_its_call
def prune_l0(
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
    optimizer: OptimizerLike = L0_OPTIMIZER,
    penalty: float | None = None,
    decay: float = 5e-4,
    kept: float = 0.9,
    spread: float = 5.0,
    gate_lr: float = 10.0,
    **loop: Unpack[LoopOptions],
) -> Ticket:
    """Train weights θ together with random gates m of their groups, under attack:

        min_{θ,s}  E_m E max_{‖δ‖≤ε} ℓ(f(x + δ; m ⊙ θ), y) + λ R(m) + ½ μ Σ_g P(m_g ≠ 0) ‖θ_g‖²

    where m is hard-concrete with the scores s (see `sparsity.hard_concrete`) and R(m) is the
    expected share of kept weights (Louizos, Welling & Kingma 2018, arXiv 1712.01312, Eq. 4 and
    App. A; their λ for each of n weights and N examples is λ = λ' n / N here). The result has the
    weights m̂ ⊙ θ, where m̂ is the gate of eval mode (Eq. 13), and zeros outside the mask. Train it
    further with `finetune_ticket(ticket, loader, ..., mode="inherit")`.

    With `pattern="channel"` each input of a layer has a gate, as the paper has it for linear
    layers, and with "filter" each output map of a convolution. `robustprune.deploy.slim` removes
    both for real. With batch norm behind the layers take "channel": behind a filter of zeros batch
    norm still emits its shift, which `slim` folds into the next bias only where nothing is padded.

    Args:
        model: a new or a trained network, which is copied and never changed.
        loader: an iterable of (x, y) batches.
        density: the fraction of the groups to keep, in (0, 1]. The gates are led to it (see
            `L0Gates`), and the groups with the largest scores are kept, exactly so many. Give
            exactly one of `density` and `penalty`.
        attack: the inner attack; give exactly one of `attack` and `objective`.
        pattern: the groups, see `robustprune.sparsity.patterns`; N:M is not possible.
        allocate: see `robustprune.sparsity.allot`; it must be "layer" with `penalty`, which decides
            by itself what each layer keeps. "row" is not possible.
        dense: layers that are not masked: "first", "last" or layer names.
        seed: the seed of the samples of the gates.
        optimizer: for weights and scores together.
        penalty: λ, at least 0; the density is then a result.
        decay: μ, the weight of the expected L2 norm, at least 0. It takes the place of the
            optimizer's weight decay.
        kept: P(m ≠ 0) at the start, in (0, 1); with a spread, that of the middle group of a layer.
        spread: how far the first scores extend to both sides of the middle, by the rank of the
            groups' norms in their layer, so that in few steps the search refines magnitude pruning
            (ours). 0 starts with equal scores, as in the paper, which makes 120,000 steps.
        gate_lr: the learning rate of the scores as a multiple of that of the weights. Only an
            OptimizerSpec can have two rates; any other optimizer trains both at its own.
        loop: the options of `LoopOptions` for the training, which `train` explains; validation
            uses the gates of eval mode, and with `density` chooses an epoch of the second half,
            where the gates are at the density.

    Returns:
        Ticket(masks, model, history); the records contain the expected density.

    Raises:
        ValueError: an option is out of range, nothing can be masked, or a batch does not fit.
        TrainingDiverged: the loss became non-finite.
    """
    if (density is None) == (penalty is None):
        raise ValueError("give either `density` or `penalty`, and not both")
    check_gated(pattern, allocate)
    if density is None:
        refuse_others("with `penalty`, λ decides for each group", allocate=(allocate, "layer"))
    else:
        check_density(density)
    for name, value in {"penalty": penalty or 0.0, "decay": decay}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value} must be at least 0 and finite")
    if not 0 < kept < 1:
        raise ValueError(f"kept={kept} is a probability at the start; it must lie in (0, 1)")
    if not 0 <= spread < math.inf:
        raise ValueError(f"spread={spread} must be at least 0 and finite, in units of the scores")
    if not 0 < gate_lr < math.inf:
        raise ValueError(f"gate_lr={gate_lr} must be positive and finite")
    objective = chosen_objective(attack, objective)
    network = copy_on(model, loop.get("device")).requires_grad_(True)
    layers = layers_to_mask(network, dense, pattern=pattern, allocate=allocate, density=density)
    constraint = L0Gates(
        network, layers, groups_of(layers, pattern, allocate=allocate), density=density,
        allocate=allocate, penalty=penalty, decay=decay, kept=kept, spread=spread,
        gate_lr=gate_lr if isinstance(understood(optimizer), OptimizerSpec) else None, seed=seed,
    )  # fmt: skip
    loop.setdefault("title", "L0 gates")
    masks, history = learn_masks(
        network, loader, objective, constraint, epochs=epochs, optimizer=optimizer, **loop
    )
    bake(network)  # θ times the gates of eval mode
    apply_masks(network, masks)
    return Ticket(masks, bake(network), history)


def check_gated(pattern: str, allocate: object) -> None:
    """Refuse a pattern or an allocation that free gates can't be driven to.

    Raises:
        ValueError: the pattern is N:M or unknown, or the allocation is "row".
    """
    check_pattern(pattern)
    if ":" in pattern:
        raise ValueError(
            f"pattern {pattern!r} fixes what each block keeps, and each gate decides for itself; "
            "take another pattern"
        )
    if allocate == "row":
        raise ValueError(
            "allocate='row' keeps the same number in each row, and each gate decides for itself; "
            "take another allocate"
        )
