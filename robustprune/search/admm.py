"""Pruning by ADMM while the network trains, under attack if the objective attacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from attacks import Attack
from robustprune.minmax import (
    Batches,
    Constraint,
    LoopOptions,
    Objective,
    OptimizerLike,
    known_by_its_call,
    train,
)
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
    weights_of,
)
from robustprune.sparsity.criteria import at_least_float32

#: a function from W + U by parameter name, and from ρ, to the masks of Z
Support = Callable[[Mapping[str, Tensor], float], MaskSet]


class Admm(Constraint):
    """Solve min L(W) + g(Z) s.t. W = Z by ADMM in scaled form, with the dual U.

        W ← gradient steps on L(W) + Σ ρ/2 ‖W − Z + U‖²   (P1, the training loop)
        Z ← prox_{g/ρ}(W + U)                              (P2, every `every` epochs)
        U ← U + W − Z

    See Boyd et al. 2011, Sec. 3.1.1. If g is the indicator of a sparsity set (Ye et al. 2019, arXiv
    1903.12561, Eq. 6 to 9), P2 is the Euclidean projection, which keeps the groups with the largest
    Σ (W + U)². If g = λ‖Z‖₁, P2 is soft-thresholding by λ/ρ. When ρ grows by a factor, U is divided
    by it, because ρU is the unscaled dual (ibid. Sec. 3.4.1).

    Each update records the residuals ‖W − Z‖/‖W‖ ("primal") and ρ‖Z − Z_before‖/‖W‖ ("dual").
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        support: Support,
        *,
        l1: float | None,
        rho: float,
        rho_growth: float,
        rho_max: float,
        every: int,
    ) -> None:
        self.weights, self.support, self.l1 = weights_of(layers), support, l1
        self.rho, self.rho_growth, self.rho_max, self.every = rho, rho_growth, rho_max, every
        self.u = {name: torch.zeros_like(w) for name, w in self._detached().items()}
        self.z = self._prox(self._detached())

    def _detached(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.weights.items()}

    def _prox(self, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.l1 is not None:
            return soft_threshold(v, self.l1 / self.rho)
        masks = self.support(v, self.rho)
        return {name: value * masks[name].to(value.device) for name, value in v.items()}

    def penalty(self, model: nn.Module) -> Tensor:
        parts = [
            ((weight - self.z[name] + self.u[name]) ** 2).sum()
            for name, weight in self.weights.items()
        ]
        return self.rho / 2 * torch.stack(parts).sum()

    @torch.no_grad()
    def after_epoch(self, model: nn.Module, epoch: int) -> dict[str, float]:
        if epoch % self.every:
            return {}
        w, before, rho = self._detached(), self.z, self.rho
        self.z = self._prox({name: w[name] + self.u[name] for name in w})
        self.u = {name: self.u[name] + w[name] - self.z[name] for name in w}
        length = _norm(w)
        figures = {
            "primal": _norm({name: w[name] - self.z[name] for name in w}) / length,
            "dual": rho * _norm({name: self.z[name] - before[name] for name in w}) / length,
            "rho": rho,
        }
        self.rho = min(rho * self.rho_growth, max(self.rho_max, rho))
        self.u = {name: u * (rho / self.rho) for name, u in self.u.items()}
        return figures

    def masks(self, model: nn.Module) -> MaskSet:
        """Return the support of Z, as if it were updated now."""
        w = self._detached()
        return self.support({name: w[name] + self.u[name] for name in w}, self.rho)

    def state_dict(self) -> dict[str, Tensor]:
        state = {f"z.{name}": z for name, z in self.z.items()}
        state |= {f"u.{name}": u for name, u in self.u.items()}
        return {**state, "rho": torch.tensor(self.rho, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.rho = float(state["rho"])
        for name, weight in self.weights.items():
            self.z[name] = state[f"z.{name}"].to(weight)
            self.u[name] = state[f"u.{name}"].to(weight)


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
    **loop: Unpack[LoopOptions],
) -> Ticket:
    """Draw the weights of a (pretrained) network towards a sparsity set while it is trained:

        min_W E max_{‖δ‖≤ε} ℓ(f(x+δ; W), y)   s.t. W ∈ S      (`density`)
        min_W E max_{‖δ‖≤ε} ℓ(f(x+δ; W), y) + λ‖W‖₁            (`l1` = λ)

    (Ye et al. 2019, arXiv 1903.12561, alg. 1; see `Admm`). At the end all weights outside the mask
    are set to zero. Retrain the result with `finetune_ticket(..., mode="inherit")`.

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
        pattern: see `robustprune.sparsity.patterns`; it must be "element" with `l1`.
        allocate: see `robustprune.sparsity.allot`; it must be "layer" with `l1`, whose threshold is
            the same for all layers.
        dense: layers that are not masked: "first", "last" or layer names.
        loop: the options of `LoopOptions` for the training, which `train` explains.

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
        layers, support, l1=l1, rho=rho, rho_growth=rho_growth, rho_max=rho_max, every=every
    )
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
    masks = constraint.masks(network)
    apply_masks(network, masks)
    return Ticket(masks, bake(network), history)


def soft_threshold(v: Mapping[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """Return sign(v) max(|v| − t, 0), the proximal map of t‖·‖₁ (Boyd et al. 2011, Sec. 4.4.3)."""
    return {
        name: value.sign() * (value.abs() - threshold).clamp_min(0) for name, value in v.items()
    }


def nonzero(z: Mapping[str, Tensor], v: Mapping[str, Tensor]) -> MaskSet:
    """Return where z is not zero; in a layer of zeros, the position of the largest |v|."""
    masks = {}
    for name, value in z.items():
        mask = value != 0
        if not bool(mask.any()):
            mask.view(-1)[v[name].abs().argmax()] = True
        masks[name] = mask
    return MaskSet(masks)


def _norm(tensors: Mapping[str, Tensor]) -> float:
    """Return ‖·‖₂ over all tensors together."""
    return float(torch.stack([(t.double() ** 2).sum() for t in tensors.values()]).sum().sqrt())
