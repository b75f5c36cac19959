"""Gates that are trained together with the weights of their groups, and led to a density."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList

from robustprune.minmax import Learned
from robustprune.sparsity import Allocation, Groups, MaskSet, allot, count_kept, leaf_of, top_k
from robustprune.sparsity.hard_concrete import Gated, Gates, expected, probability_kept, score_of


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

    def _drawn(self) -> int:
        """Return the number of steps so far."""
        return max(gates.draw for gates in self.gates.values())

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
        if self.density is None:
            kept = {name: (expected(score) > 0) | top_k(score, 1) for name, score in scores.items()}
        else:
            counts = allot(scores, self.groups, self.density, self.allocate)
            kept = {n: g.choose(scores[n], counts[n]) for n, g in self.groups.items()}
        return MaskSet({name: g.expand(kept[name]) for name, g in self.groups.items()})

    def may_be_chosen(self, epoch: int) -> bool:
        """Return whether the path has led to the density, so that the network is what the mask will
        leave of it."""
        return self.density is None or self._drawn() >= self.half

    def state_dict(self) -> dict[str, Tensor]:
        return {"draw": torch.tensor(self._drawn())}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._draw(int(state["draw"]))


def _rank(values: Tensor) -> Tensor:
    """Return the rank of each value, from −1 for the smallest to 1 for the largest; 0 for one
    alone."""
    if len(values) == 1:
        return torch.zeros(1, device=values.device)
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
