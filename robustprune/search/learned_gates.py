"""Learn hard-concrete gates of a frozen network: a penalty, or a density that is reached."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy.optimize import brentq
from torch import Tensor, nn
from torch.nn.utils import parametrize

from robustprune.minmax import Learned
from robustprune.search.ticket import device_of
from robustprune.sparsity import GateGroup, MaskSet, draw_masks, magnitudes
from robustprune.sparsity.hard_concrete import Gated, Gates, probability_kept, score_of

#: by what part of the asked density a network may be denser that a validation chooses
_DENSER = 0.1


def expected_density(scores: Mapping[str, Tensor], groups: Mapping[str, GateGroup]) -> Tensor:
    """Return R(m) = Σ_g n_g P(m_g ≠ 0) / Σ_g n_g, where group g has n_g weights."""
    parts = [
        probability_kept(scores[name]).mean() * group.weights for name, group in groups.items()
    ]
    return torch.stack(parts).sum() / sum(group.weights for group in groups.values())


class HardConcreteGates(Learned):
    """Put gates on a frozen network, with the penalty λ times `expected_density`. Each optimizer
    step uses one sample of the gates.

    Without a λ, Lagrange multipliers drive the expected density R to the asked one, t: the penalty
    is λ₁ (R − t) + λ₂ (R − t)², and after each step λ₁ grows by R − t and λ₂ by its square (Xia et
    al. 2024, Sheared LLaMA, arXiv 2310.06694, Eq. 2; their step size 1). With `each`, every place
    has an R and multipliers of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Mapping[str, GateGroup],
        *,
        density: float,
        penalty: float | None,
        kept: float | None,
        spread: float = 0.0,
        each: bool = False,
        seed: int,
    ) -> None:
        self.groups, self.density, self.weight, self.each = groups, density, penalty, each
        self.gates: dict[str, Gates] = {}
        device = device_of(model)
        self.multipliers = torch.zeros(2, len(groups) if each else 1, device=device)
        first = first_scores(model, groups, density=density, kept=kept, spread=spread)
        for index, (place, group) in enumerate(groups.items()):
            gates = Gates(first[place], seed=seed * len(groups) + index).to(device)
            self.gates[place] = gates
            for number, (name, span) in enumerate(group.spans.items()):
                layer, _, leaf = name.rpartition(".")
                gated = Gated(gates, span, owner=number == 0)
                module = model.get_submodule(layer)
                parametrize.register_parametrization(module, leaf, gated, unsafe=True)

    def parameters(self) -> list[nn.Parameter]:
        return [gates.score for gates in self.gates.values()]

    def scores(self) -> dict[str, Tensor]:
        return {name: gates.score.detach().clone() for name, gates in self.gates.items()}

    def expected_density(self) -> Tensor:
        """Return R(m), which is differentiable."""
        return expected_density({n: gates.score for n, gates in self.gates.items()}, self.groups)

    def excess(self) -> Tensor:
        """Return R − t: one number for each place, or one for all of them together."""
        if not self.each:
            return (self.expected_density() - self.density).view(1)
        parts = [probability_kept(gates.score).mean() for gates in self.gates.values()]
        return torch.stack(parts) - self.density

    def penalty(self, model: nn.Module) -> Tensor:
        if self.weight is not None:
            return self.weight * self.expected_density()
        linear, square = self.multipliers
        excess = self.excess()
        return torch.sum(linear * excess + square * excess.square())

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: int) -> None:
        if self.weight is None:
            excess = self.excess()
            self.multipliers += torch.stack([excess, excess.square()])
        self._draw(step)

    def _draw(self, step: int) -> None:
        for gates in self.gates.values():
            gates.draw = step

    @torch.no_grad()
    def after_epoch(self, model: nn.Module, epoch: int) -> dict[str, float]:
        return {"expected density": float(self.expected_density())}

    def masks(self, model: nn.Module) -> MaskSet:
        return draw_masks(self.scores(), self.groups, self.density, each=self.each)

    @torch.no_grad()
    def may_be_chosen(self, epoch: int) -> bool:
        """Return whether multipliers have led R, at every place of its own, to t or at most a tenth
        above it; before that the gates leave a denser network than the ticket. With a λ the density
        comes from the order of the scores alone, so that any epoch will do."""
        return self.weight is not None or bool(self.excess().max() <= _DENSER * self.density)

    def state_dict(self) -> dict[str, Tensor]:
        draw = torch.tensor(max((g.draw for g in self.gates.values()), default=0))
        more = {} if self.weight is not None else {"multipliers": self.multipliers.clone()}
        return {"draw": draw, **more}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._draw(int(state["draw"]))
        if "multipliers" in state:
            self.multipliers.copy_(state["multipliers"])


def first_scores(
    model: nn.Module,
    groups: Mapping[str, GateGroup],
    *,
    density: float,
    kept: float | None,
    spread: float,
) -> dict[str, Tensor]:
    """Return the first score of each group: the log-odds of `kept` (None: those for which R(m) is
    `density`), plus spread · ρ, where ρ from −1 to 1 is the rank of the group's root mean square
    weight among all groups of all places."""
    ranks = (
        _ranks(model, groups) if spread else {n: torch.zeros(g.shape) for n, g in groups.items()}
    )
    moved = {name: spread * rank for name, rank in ranks.items()}
    middle = _middle(moved, groups, density) if kept is None else score_of(kept)
    return {name: middle + part for name, part in moved.items()}


def _ranks(model: nn.Module, groups: Mapping[str, GateGroup]) -> dict[str, Tensor]:
    sizes = [magnitudes(model, group).flatten() for group in groups.values()]
    order = torch.cat(sizes).argsort(stable=True)
    rank = torch.empty(len(order)).scatter_(0, order.cpu(), torch.linspace(-1, 1, len(order)))
    parts = torch.split(rank, [len(size) for size in sizes])
    return {
        name: part.view(group.shape)
        for (name, group), part in zip(groups.items(), parts, strict=True)
    }


def _middle(moved: Mapping[str, Tensor], groups: Mapping[str, GateGroup], density: float) -> float:
    """Return the number that is added to the scores so that R(m) is the density."""
    if not density < 1:
        raise ValueError(f"kept=None starts at the density, which must be below 1, not {density}")

    def excess(middle: float) -> float:
        scores = {name: middle + part for name, part in moved.items()}
        return float(expected_density(scores, groups)) - density

    far = 1 + max(float(part.abs().max()) for part in moved.values())
    return float(brentq(excess, score_of(density) - far, score_of(density) + far, xtol=1e-6))
