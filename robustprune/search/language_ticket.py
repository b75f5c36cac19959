"""Robust lottery tickets of pre-trained language models. Masks are learned under attack with frozen
weights, and drawn once; then weights are reset and trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn
from typing_extensions import Unpack

from attacks import Attack
from attacks.network import unwrapped
from robustprune.minmax import (
    Batches,
    LoopOptions,
    Objective,
    OptimizerLike,
    OptimizerSpec,
    known_by_its_call,
)
from robustprune.search.learned_gates import HardConcreteGates
from robustprune.search.lottery import LotteryTicket
from robustprune.search.ticket import (
    check_searchable,
    chosen_objective,
    copy_on,
    device_of,
    learn_masks,
    refuse_others,
    warn_of_left_out,
)
from robustprune.sparsity import (
    Allocation,
    GateGroup,
    Granularity,
    MaskSet,
    apply_masks,
    bake,
    check_density,
    draw_masks,
    gate_groups,
    plain,
)
from robustprune.sparsity.plain import computed_weights

LANGUAGE_OPTIMIZER = OptimizerSpec(name="adamw", lr=0.1, weight_decay=1e-6, schedule="linear")


@dataclass(frozen=True, repr=False)
class LanguageTicket(LotteryTicket):
    """A ticket that was drawn from learned scores and is not trained yet.

    Attributes:
        scores: for each place one score per group; groups with larger scores are kept first.
        groups: the groups to which the scores belong.
        each: whether every place keeps the same share of its groups.
    """

    scores: Mapping[str, Tensor] = field(repr=False)
    groups: Mapping[str, GateGroup] = field(repr=False)
    each: bool = False

    def at(self, density: float) -> LanguageTicket:
        """Return the ticket of another density from the same scores, without learning again.

        Raises:
            ValueError: `density` is outside (0, 1].
        """
        masks = draw_masks(self.scores, self.groups, density, each=self.each)
        return replace(self, masks=masks, model=_masked(self.start, masks))


@known_by_its_call
def find_language_ticket(
    model: nn.Module,
    loader: Batches,
    *,
    density: float,
    attack: Attack | None = None,
    objective: Objective | None = None,
    pattern: str = "element",
    allocate: Allocation = "global",
    dense: Iterable[str] = ("last",),
    seed: int = 0,
    epochs: int = 20,
    optimizer: OptimizerLike = LANGUAGE_OPTIMIZER,
    pretrained: nn.Module | None = None,
    granularity: Granularity = "weight",
    penalty: float | None = 0.5,
    kept: float | None = 0.9,
    spread: float = 0.0,
    **loop: Unpack[LoopOptions],
) -> LanguageTicket:
    """Learn which weights of a fine-tuned language model to keep, under attack:

        min_m  E max_{‖δ‖_F≤ε} ℓ(f(x + δ; m ⊙ θ), y) + λ R(m),    θ frozen

    where m is hard-concrete (see `sparsity.hard_concrete`) and R(m) is the expected share of kept
    weights. Then the groups with the largest scores of all layers are kept, and the pre-trained
    weights are restored (Zheng et al. 2022, arXiv 2211.03013, Sec. 3). Train the result with
    `finetune_ticket(ticket, loader, Natural(), ...)` as the paper does, or under attack.
    `train_control` trains its controls, and `ticket.at(0.5)` draws another density.

    The defaults are those of the paper and not of the other searches: all layers are compared, the
    classifier on top is not masked, and scores are learned by AdamW in 20 epochs. The section
    `language` of a config has the same defaults.

    Args:
        model: the network, fine-tuned for the task. It is copied and never changed.
        loader: an iterable of (x, y) batches of packed sentences (`robustprune.packing`).
        density: the fraction of the groups to keep, in (0, 1]: exactly ⌈density · n⌉ of them.
        attack: the inner attack, such as PGD(ThreatModel("l2", eps, support=words)); give exactly
            one of `attack` and `objective`.
        pattern: it must be "element"; see `granularity`.
        allocate: "global" compares the groups of all layers; "layer" keeps the same share of heads
            or neurons in every layer, so that `deploy.slim_causal` removes all others.
        pretrained: the network to whose weights the ticket is reset; None for `model`.
        granularity: what is kept or removed together: "weight", "head", "neuron" or "layer" (see
            `sparsity.gates`).
        penalty: λ, at least 0. None finds it in the search, by Lagrange multipliers that drive R(m)
            to `density` (see `HardConcreteGates`).
        kept: P(m ≠ 0) at the start; with a spread, that of the middle group. None chooses it so
            that R(m) is `density` at the first step, which helps when steps are few (ours).
        spread: how far the first scores extend to both sides of the middle, by the rank of the
            groups' magnitudes. 0, as in the paper, starts with equal scores. With few steps, about
            10 and kept=None make the search refine magnitude pruning (ours).
        dense: only for granularity "weight": the layers that are not masked; by default the
            classifier on top. Embeddings (also tied ones), norms and biases are never masked.
        seed: the seed of the samples of the gates.
        loop: options of `LoopOptions`, see `train`; validation uses the `expected` gates, and with
            penalty=None chooses no epoch in which R(m) is more than a tenth above the density.

    Returns:
        LanguageTicket; the records contain the expected density. The search holds, besides a copy
        of the model, 16 bytes per group, and about twice as much during a step.

    Raises:
        ValueError: an option out of range, nothing to mask, a batch that does not fit the model.
        TrainingDiverged: the loss became non-finite.
    """
    check_density(density)
    each = allocate == "layer" and granularity in ("head", "neuron")
    whole = "granularity says which weights are removed together, and all layers are compared"
    refuse_others(
        whole, pattern=(pattern, "element"), allocate=("global" if each else allocate, "global")
    )
    if penalty is not None and not penalty >= 0:
        raise ValueError(f"penalty={penalty} must be at least 0, the weight λ of the kept share")
    if not 0 <= spread < math.inf:
        raise ValueError(f"spread={spread} must be at least 0 and finite, in units of the scores")
    dense = (dense,) if isinstance(dense, str) else tuple(dense)
    if granularity != "weight" and dense not in ((), ("last",)):
        raise ValueError(
            f"dense={dense} is of granularity 'weight'; {granularity}s are masked in every layer"
        )
    objective = chosen_objective(attack, objective)
    network = copy_on(model, loop.get("device")).requires_grad_(False)
    groups = gate_groups(network, granularity, dense=dense)
    if granularity == "weight":
        warn_of_left_out(network)
    if pretrained is not None:
        _check_fits(pretrained, groups)
    constraint = HardConcreteGates(
        network, groups, density=density, penalty=penalty, kept=kept, spread=spread, each=each,
        seed=seed,
    )  # fmt: skip
    loop.setdefault("title", f"robust ticket {density:.0%}")
    masks, history = learn_masks(
        network, loader, objective, constraint, epochs=epochs, optimizer=optimizer, **loop
    )
    start = plain(model if pretrained is None else pretrained).to(device_of(network))
    start.requires_grad_(True)
    model = _masked(start, masks)
    return LanguageTicket(masks, model, history, start, constraint.scores(), groups, each)


def _check_fits(pretrained: nn.Module, groups: Mapping[str, GateGroup]) -> None:
    """Refuse weights of another network before the search, and not only at its end."""
    check_searchable(pretrained)
    inner = unwrapped(pretrained)
    weights = dict((plain(inner) if computed_weights(inner) else inner).named_parameters())
    for name, span in [pair for group in groups.values() for pair in group.spans.items()]:
        if (has := tuple(weights[name].shape) if name in weights else "none") != span.shape:
            raise ValueError(
                f"the ticket needs a weight {name!r} of shape {span.shape}, and `pretrained` has "
                f"{has}; give the network that `model` was fine-tuned from"
            )


def _masked(start: nn.Module, masks: MaskSet) -> nn.Module:
    """Return a copy of the network with the mask baked in."""
    network = copy_on(start, device_of(start))
    apply_masks(network, masks)
    return bake(network)
