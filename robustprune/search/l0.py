"""L0 gates for any network: weights and random gates of their groups are trained together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList
from typing_extensions import Unpack

from attacks import Attack
from robustprune.minmax import (
    Batches,
    Learned,
    LoopOptions,
    Objective,
    OptimizerLike,
    OptimizerSpec,
    known_by_its_call,
)
from robustprune.minmax.optimizers import understood
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
    Groups,
    MaskSet,
    allot,
    apply_masks,
    bake,
    check_density,
    check_pattern,
    count_kept,
    groups_of,
    leaf_of,
)
from robustprune.sparsity.hard_concrete import Gated, Gates, expected, probability_kept, score_of

L0_OPTIMIZER = OptimizerSpec(name="adam", lr=1e-2, weight_decay=0.0)


class L0Gates(Learned):
    """Put a hard-concrete gate on each group of weights, and train gates and weights together with
    the penalty of `prune_l0`. Each optimizer step uses one sample of the gates.

    Without a λ, a path leads from the first expected number of groups to the asked one, as cubic as
    that of `prune_gradual`, in the first half of the training. After each step one number is
    subtracted from all scores so that the expected number of groups is that of the path: one
    number for each layer, or with the allocation "global" one for all layers together. So the loss
    decides which groups are kept, and the path how many (ours; multipliers overshoot in short
    trainings).
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Mapping[str, nn.Module],
        groups: Mapping[str, Groups],
        *,
        density: float | None,
        allocate: Allocation,
        penalty: float | None,
        decay: float,
        kept: float,
        spread: float,
        gate_lr: float | None,
        seed: int,
    ) -> None:
        self.network, self.layers, self.groups = network, layers, groups
        self.density, self.allocate, self.weight = density, allocate, penalty
        self.decay, self.gate_lr = decay, gate_lr
        self.gates: dict[str, Gates] = {}
        self.sizes: dict[str, Tensor] = {}  # the number of weights of each group
        for index, (name, layer) in enumerate(layers.items()):
            leaf = leaf_of(layer, name)
            weight = getattr(layer, leaf)
            size = groups[name].reduce(weight.detach().float().square())
            score = score_of(kept) + spread * _rank(size)
            self.sizes[name] = groups[name].reduce(torch.ones_like(weight, dtype=torch.float32))
            gates = Gates(score, seed=seed * len(layers) + index)
            self.gates[name] = gates
            gated = Gated(gates, groups[name], owner=True)
            parametrize.register_parametrization(layer, leaf, gated, unsafe=True)
        self.kept, self.half = kept, 0
        self.wanted = {} if density is None else self._wanted(density)

    def _wanted(self, density: float) -> dict[str, int]:
        """Return how many groups each layer keeps at the end, or all of them together ("")."""
        numbers = {name: g.number for name, g in self.groups.items()}
        if self.allocate == "global":
            return {"": count_kept(density, sum(numbers.values()))}
        flat = {name: torch.zeros(number) for name, number in numbers.items()}
        return allot(flat, self.groups, density, self.allocate)

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.network.parameters() if p.requires_grad]

    def bind(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps_per_epoch: int | None,
        epochs: int,
    ) -> None:
        """Give the scores a learning rate of their own, and no weight decay."""
        self.half = 0 if steps_per_epoch is None else steps_per_epoch * epochs // 2
        if self.gate_lr is None:
            return
        scores = [gates.score for gates in self.gates.values()]
        known = {id(score) for score in scores}
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in known]
        own = {"lr_scale": self.gate_lr, "weight_decay": 0.0}
        optimizer.add_param_group({"params": scores, **own})

    def probabilities(self) -> dict[str, Tensor]:
        """Return P(m ≠ 0) of each group, which is differentiable."""
        return {name: probability_kept(gates.score) for name, gates in self.gates.items()}

    def expected_density(self) -> Tensor:
        """Return R(m), the expected share of the weights that are kept."""
        kept = [torch.sum(p * self.sizes[name]) for name, p in self.probabilities().items()]
        return torch.stack(kept).sum() / sum(math.prod(g.shape) for g in self.groups.values())

    def penalty(self, model: nn.Module) -> Tensor | None:
        total = None if self.weight is None else self.weight * self.expected_density()
        if self.decay:
            for name, p in self.probabilities().items():
                squares = self.groups[name].reduce(self._stored(name).float().square())
                norm = 0.5 * self.decay * torch.sum(p * squares)
                total = norm if total is None else total + norm
        return total

    def _stored(self, name: str) -> Tensor:
        """Return θ, the weight without its gates."""
        layer = self.layers[name]
        listed = cast(Mapping[str, ParametrizationList], layer.parametrizations)
        return listed[leaf_of(layer, name)].original

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: int) -> None:
        left = max(0.0, 1 - step / self.half) ** 3 if self.half else 0.0
        for place, wanted in self.wanted.items():
            scores = [g.score for name, g in self.gates.items() if place in ("", name)]
            number = sum(score.numel() for score in scores)
            _shift(scores, wanted + max(0.0, self.kept * number - wanted) * left)
        self._draw(step)

    def _draw(self, step: int) -> None:
        for gates in self.gates.values():
            gates.draw = step

    @torch.no_grad()
    def after_epoch(self, model: nn.Module, epoch: int) -> dict[str, float]:
        return {"expected density": float(self.expected_density())}

    @torch.no_grad()
    def masks(self, model: nn.Module) -> MaskSet:
        """Return the groups with the largest scores, exactly as many as asked; with a λ those whose
        gate in eval mode is not zero, and at least one in each layer."""
        scores = {name: gates.score.detach() for name, gates in self.gates.items()}
        if self.density is not None:
            counts = allot(scores, self.groups, self.density, self.allocate)
        else:
            alive = {name: int((expected(score) > 0).sum()) for name, score in scores.items()}
            counts = {name: max(1, number) for name, number in alive.items()}
        return MaskSet(
            {n: g.expand(g.choose(scores[n], counts[n])) for n, g in self.groups.items()}
        )

    def state_dict(self) -> dict[str, Tensor]:
        return {"draw": torch.tensor(max(gates.draw for gates in self.gates.values()))}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._draw(int(state["draw"]))


def _rank(values: Tensor) -> Tensor:
    """Return the rank of each value, from −1 for the smallest to 1 for the largest."""
    order = values.argsort(stable=True)
    ranks = torch.empty(len(order), device=values.device)
    ranks[order] = torch.linspace(-1, 1, len(order), device=values.device)
    return ranks


def _shift(scores: list[nn.Parameter], wanted: float, steps: int = 4) -> None:
    """Add one number to all scores, in place, so that ΣP(m ≠ 0) is `wanted`: by Newton's method,
    whose steps are at most 1 where the slope is almost 0."""
    for _ in range(steps):
        found = [probability_kept(score) for score in scores]
        total = torch.stack([p.sum() for p in found]).sum()
        slope = torch.stack([torch.sum(p * (1 - p)) for p in found]).sum()
        move = ((wanted - total) / slope.clamp_min(1e-12)).clamp(-1.0, 1.0)
        for score in scores:
            score.add_(move)


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
            uses the gates of eval mode.

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
