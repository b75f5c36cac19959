"""Pruning by learned scores: HYDRA, and HARP, which also learns each layer's rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from typing_extensions import Unpack

from attacks import Attack
from robustprune.minmax import (
    Batches,
    Learned,
    LoopOptions,
    Objective,
    OptimizerLike,
    known_by_its_call,
)
from robustprune.search.popup import Popup, ScoreTopK, scaled_scores
from robustprune.search.ticket import (
    DRAWS_NOTHING,
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
    MaskSet,
    allot,
    apportion,
    bake,
    check_density,
    check_pattern,
    count_kept,
    groups_of,
    leaf_of,
)
from robustprune.sparsity.allocation import given_counts
from robustprune.sparsity.ranking import check_scores

ScoreMethod = Literal["hydra", "harp"]
SCORE_METHODS: tuple[ScoreMethod, ...] = get_args(ScoreMethod)


class _StraightThroughRate(torch.autograd.Function):
    """Map (s, r, θ, m) to m ⊙ θ, with gradients as if m were |s| and its mean the rate r:
    ∂L/∂s = ∂L/∂W ⊙ θ ⊙ sign(s) and ∂L/∂r = Σ ∂L/∂W ⊙ θ."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, rate: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(score, weight)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        score, weight = ctx.saved_tensors
        grad = grads[0] * weight
        return grad * score.sign(), grad.sum(), None, None


class RatedPopup(Popup):
    """A `Popup` that keeps a learned fraction r = σ(k)(1 − least) + least of its groups."""

    def __init__(self, score: Tensor, groups: Groups, rate: float, least: float) -> None:
        super().__init__(score, groups, groups.number)
        self.least = least
        # the rate starts inside (least, 1), where σ has a slope
        share = min(max((rate - least) / (1 - least), 0.01), 0.99)
        self.rate_score = nn.Parameter(torch.tensor(math.log(share / (1 - share))).to(score))
        self.fixed = False

    def rate(self) -> Tensor:
        return torch.sigmoid(self.rate_score) * (1 - self.least) + self.least

    def forward(self, weight: Tensor) -> Tensor:
        rate = self.rate()
        if not self.fixed:
            self.kept = max(1, round(float(rate.detach()) * self.groups.number))
        masked = _StraightThroughRate.apply(self.score, rate, weight, self.mask())
        assert isinstance(masked, Tensor)
        return masked


class LearnedRates(Learned):
    """HARP: learn scores and rates together; a penalty keeps the kept total at the target.

        L + γ max(Σ_l r_l n_l / (density · Σ_l n_l) − 1, 0),   γ = 0.01 · epoch, from 1

    (Zhao et al. 2023, "Holistic adversarially robust pruning", ICLR, Eq. 5 to 7). No layer keeps
    less than `least` times the density. At the end the rates are scaled, so that exactly
    ⌈density · n⌉ groups are kept in all.

    With `cost`, what one group of each layer costs, n_l counts as cost_l · n_l: the density is the
    kept share of the whole cost (ours). At the end the kept groups reach that share, and exceed it
    by less than what one group of a layer costs.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        *,
        density: float,
        pattern: str,
        allocate: Allocation,
        scores: Mapping[str, Tensor],
        least: float = 0.1,
        gamma: float = 0.01,
        cost: Mapping[str, float] | None = None,
    ) -> None:
        self.density, self.gamma, self.epoch = density, gamma, 1
        self.cost = _relative(cost, layers)
        groups = groups_of(layers, pattern)
        values = {name: groups[name].reduce(scores[name].abs()) for name in layers}
        check_scores(scores)
        if isinstance(allocate, Mapping):  # the first rates need not meet the target
            counts = given_counts(groups, allocate)
        else:
            counts = allot(values, groups, density, allocate)
        self.popups: dict[str, RatedPopup] = {}
        for name, layer in layers.items():
            rate = counts[name] / groups[name].number
            popup = RatedPopup(scores[name].clone(), groups[name], rate, least * density)
            self.popups[name] = popup
            parametrize.register_parametrization(layer, leaf_of(layer, name), popup, unsafe=True)

    def parameters(self) -> list[nn.Parameter]:
        popups = self.popups.values()
        return [*(popup.score for popup in popups), *(popup.rate_score for popup in popups)]

    def penalty(self, model: nn.Module) -> Tensor:
        costs = [self.cost[name] * popup.groups.number for name, popup in self.popups.items()]
        rates = torch.stack([popup.rate() for popup in self.popups.values()])
        kept = (rates * torch.tensor(costs).to(rates)).sum() / sum(costs)
        return self.gamma * self.epoch * (kept / self.density - 1).clamp_min(0)

    def after_epoch(self, model: nn.Module, epoch: int) -> dict[str, float]:
        self.epoch = epoch + 1
        kept = sum(self.cost[name] * popup.kept for name, popup in self.popups.items())
        total = sum(self.cost[name] * popup.groups.number for name, popup in self.popups.items())
        return {"kept / target": kept / total / self.density}

    def _counts(self) -> dict[str, int]:
        """Return the number of groups that each layer keeps if the search ends now."""
        popups = self.popups.items()
        numbers = {name: popup.groups.number for name, popup in popups}
        shares = {name: float(popup.rate().detach()) * numbers[name] for name, popup in popups}
        total: float = count_kept(self.density, sum(numbers.values()))
        if any(cost != 1 for cost in self.cost.values()):  # a whole number of groups means nothing
            total = self.density * sum(self.cost[name] * numbers[name] for name in numbers)
        return apportion(shares, numbers, total, costs=self.cost)

    def masks(self, model: nn.Module) -> MaskSet:
        counts = self._counts()
        return MaskSet({name: popup.mask(counts[name]) for name, popup in self.popups.items()})

    def settle(self) -> None:
        """End the search: from now on the layers keep what `masks` says, whatever their rates
        are."""
        for name, kept in self._counts().items():
            self.popups[name].kept, self.popups[name].fixed = kept, True

    def state_dict(self) -> dict[str, Tensor]:
        return {"epoch": torch.tensor(self.epoch)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.epoch = int(state["epoch"])


def _relative(
    cost: Mapping[str, float] | None, layers: Mapping[str, nn.Module]
) -> dict[str, float]:
    """Return what a group of each layer costs, as a share of the dearest one; 1 without costs.

    Raises:
        ValueError: a layer has no cost, a cost no layer, or a cost is not positive and finite.
    """
    if cost is None:
        return dict.fromkeys(layers, 1.0)
    for name in cost:
        if name not in layers:
            raise ValueError(
                f"a cost is given for {name!r}, which is no masked layer; "
                f"the layers are {', '.join(layers)}"
            )
    for name in layers:
        if name not in cost:
            raise ValueError(
                f"no cost is given for layer {name!r}; give one, or name the layer in `dense`"
            )
        if not 0 < cost[name] < math.inf:
            raise ValueError(f"the cost {cost[name]} of {name!r} must be positive and finite")
    dearest = max(cost.values())
    return {name: cost[name] / dearest for name in layers}


@known_by_its_call
def prune_scores(
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
    method: ScoreMethod = "hydra",
    cost: Mapping[str, float] | None = None,
    **loop: Unpack[LoopOptions],
) -> Ticket:
    """Learn which weights of a pretrained network to keep, with the robust loss itself:

        min_m E max_{‖δ‖≤ε} ℓ(f(x+δ; m ⊙ θ), y)   s.t. ‖m‖₀ ≤ k,   θ frozen

    "hydra" (Sehwag et al. 2020, arXiv 2002.10509, Sec. 3) fixes the density of each layer, and its
    first scores are the scaled weights. "harp" also learns the densities, see `LearnedRates`.
    Fine-tune the result with `finetune_ticket(..., mode="inherit")`.

    Args:
        model: the network, which is copied and never changed; start from one that was trained with
            the same objective.
        loader: an iterable of (x, y) batches.
        density: the fraction of the groups to keep, in (0, 1].
        attack: the inner attack; give exactly one of `attack` and `objective`.
        pattern: see `robustprune.sparsity.patterns`; "harp" does not accept N:M, whose rate is
            fixed.
        allocate: the share that each layer keeps ("hydra"), or with which it starts ("harp").
        dense: layers that are not masked: "first", "last" or layer names.
        seed: it must be 0, because this search draws no random numbers.
        epochs, optimizer: for the scores; the papers use 20 epochs and OptimizerSpec(lr=0.1,
            weight_decay=1e-4).
        cost: only for "harp": what one group of each layer costs, by the layer's parameter name, in
            any unit; see `LearnedRates`. `density` is then the share of the whole cost that is
            kept. For widths that follow measured time, take `pattern="channel"` and the costs of
            `robustprune.deploy.channel_seconds`. None: all groups cost the same.
        loop: the options of `LoopOptions` for the training, which `train` explains. "harp" accepts
            no validation: it keeps too many weights before its end, so that an early epoch would be
            chosen.

    Raises:
        ValueError: an option is out of range, nothing can be masked, or a batch does not fit.
        TrainingDiverged: the loss became non-finite.
    """
    check_pattern(pattern, check_density(density))
    refuse_others(DRAWS_NOTHING, seed=(seed, 0))
    if method not in SCORE_METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(SCORE_METHODS)}")
    if method == "harp" and ":" in pattern:
        raise ValueError(f"harp learns each layer's rate, and pattern {pattern!r} fixes it")
    if method == "harp" and allocate == "row":
        raise ValueError(
            "harp learns what each layer keeps, and compares all groups of a layer, so that "
            "allocate='row' has no effect; set allocate to 'layer'"
        )
    if method == "harp" and loop.get("validation") is not None:
        raise ValueError("harp takes its last epoch; leave `validation` to the fine-tuning")
    if method != "harp":
        refuse_others("hydra fixes what each layer keeps", cost=(cost, None))
    objective = chosen_objective(attack, objective)
    network = copy_on(model, loop.get("device")).requires_grad_(False)
    kept = None if method == "harp" else density  # HARP may start at any rates
    layers = layers_to_mask(network, dense, pattern=pattern, allocate=allocate, density=kept)
    make = ScoreTopK if method == "hydra" else partial(LearnedRates, cost=cost)
    constraint = make(
        layers, density=density, pattern=pattern, allocate=allocate, scores=scaled_scores(layers)
    )
    loop.setdefault("title", f"{method} {density:.0%}")
    masks, history = learn_masks(
        network, loader, objective, constraint, epochs=epochs, optimizer=optimizer, **loop
    )
    if isinstance(constraint, LearnedRates):
        constraint.settle()
    return Ticket(masks, bake(network).requires_grad_(True), history)
