"""The constraint of ADMM: weights are drawn towards a set while they are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustprune.minmax import Constraint
from robustprune.sparsity import MaskSet, bits_of, few_values, weights_of

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

    With `bits`, the kept weights of each layer take at most 2^bits values in Z, by k-means, with
    zero as the fixed centre of all others (Gui et al. 2019, ATMC, arXiv 1902.03538). After epoch
    `hold` the mask stays as it is, W is set to zero outside of it after every step, as there, and
    Z, U and ρ begin anew, so that what is left is drawn to these values alone. That paper also
    factorises the weights, which is left out.

    Each update records the residuals ‖W − Z‖/‖W‖ ("primal") and ρ‖Z − Z_before‖/‖W‖ ("dual"), and
    with `bits` how many bits Z needs ("bits", see `bits_of`).
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
        bits: int | None = None,
        hold: int = 0,
    ) -> None:
        self.weights, self.support, self.l1 = weights_of(layers), support, l1
        self.rho, self.rho_growth, self.rho_max, self.every = rho, rho_growth, rho_max, every
        self.bits, self.hold, self.first_rho = bits, hold, rho
        self.held: dict[str, Tensor] = {}
        self.chosen: tuple[dict[str, Tensor], float] | None = None  # U and ρ of the chosen epoch
        self.u = {name: torch.zeros_like(w) for name, w in self._detached().items()}
        self.z = self._prox(self._detached())

    def _detached(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.weights.items()}

    def _prox(self, v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.l1 is not None:
            return soft_threshold(v, self.l1 / self.rho)
        masks = self._support(v)
        if self.bits is not None:
            return {name: quantised(value, masks[name], self.bits) for name, value in v.items()}
        return {name: value * masks[name].to(value.device) for name, value in v.items()}

    def _support(self, v: Mapping[str, Tensor]) -> MaskSet:
        return MaskSet(self.held) if self.held else self.support(v, self.rho)

    def penalty(self, model: nn.Module) -> Tensor:
        parts = [
            ((weight - self.z[name] + self.u[name]) ** 2).sum()
            for name, weight in self.weights.items()
        ]
        return self.rho / 2 * torch.stack(parts).sum()

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: int) -> None:
        for name, mask in self.held.items():
            self.weights[name].mul_(mask)

    @torch.no_grad()
    def after_epoch(self, model: nn.Module, epoch: int) -> dict[str, float]:
        figures = {} if epoch % self.every else self._update()
        if epoch == self.hold:
            masks = self.masks(model)
            self.held = {name: masks[name].to(w.device) for name, w in self.weights.items()}
            self.after_step(model, 0)
            self.rho = self.first_rho
            self.u = {name: torch.zeros_like(u) for name, u in self.u.items()}
            self.z = self._prox(self._detached())
        return figures

    def _update(self) -> dict[str, float]:
        """Update Z, U and ρ; return the residuals."""
        w, before, rho = self._detached(), self.z, self.rho
        self.z = self._prox({name: w[name] + self.u[name] for name in w})
        self.u = {name: self.u[name] + w[name] - self.z[name] for name in w}
        length = _norm(w)
        figures = {
            "primal": _norm({name: w[name] - self.z[name] for name in w}) / length,
            "dual": rho * _norm({name: self.z[name] - before[name] for name in w}) / length,
            "rho": rho,
        }
        if self.bits is not None:
            masks = MaskSet({name: z != 0 for name, z in self.z.items()})
            figures["bits"] = sum(bits_of(z, masks[name]) for name, z in self.z.items())
        self.rho = min(rho * self.rho_growth, max(self.rho_max, rho))
        self.u = {name: u * (rho / self.rho) for name, u in self.u.items()}
        return figures

    def masks(self, model: nn.Module) -> MaskSet:
        """Return the support of Z, as if it were updated now."""
        w = self._detached()
        return self._support({name: w[name] + self.u[name] for name in w})

    def returned(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the weights of the ticket, if the training ended now: zero outside of the masks,
        and with `bits` of few values."""
        masks, w = self.masks(model), self._detached()
        if self.bits is not None:
            return {name: quantised(value, masks[name], self.bits) for name, value in w.items()}
        return {name: value * masks[name].to(value.device) for name, value in w.items()}

    @contextmanager
    def as_returned(self, model: nn.Module) -> Iterator[None]:
        w = self._detached()
        own = {name: value.clone() for name, value in w.items()}
        for name, value in self.returned(model).items():
            w[name].copy_(value)
        try:
            yield
        finally:
            for name, value in own.items():
                w[name].copy_(value)

    def may_be_chosen(self, epoch: int) -> bool:
        """Return whether the mask is held, where it will be: before that the network is dense."""
        return epoch > self.hold

    def after_choice(self, epoch: int) -> None:
        self.chosen = dict(self.u), self.rho  # an update makes new tensors

    def settle(self) -> None:
        """Return to the U and ρ of the epoch that a validation chose, if one did."""
        if self.chosen is not None:
            self.u, self.rho = self.chosen

    def state_dict(self) -> dict[str, Tensor]:
        state = {f"z.{name}": z for name, z in self.z.items()}
        state |= {f"u.{name}": u for name, u in self.u.items()}
        state |= {f"held.{name}": mask for name, mask in self.held.items()}
        if self.chosen is not None:
            u, rho = self.chosen
            state |= {f"chosen.{name}": value for name, value in u.items()}
            state["chosen rho"] = torch.tensor(rho, dtype=torch.float64)
        return {**state, "rho": torch.tensor(self.rho, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.rho = float(state["rho"])
        for name, weight in self.weights.items():
            self.z[name] = state[f"z.{name}"].to(weight)
            self.u[name] = state[f"u.{name}"].to(weight)
            if f"held.{name}" in state:
                self.held[name] = state[f"held.{name}"].to(weight.device)
        if "chosen rho" in state:
            u = {name: state[f"chosen.{name}"].to(w) for name, w in self.weights.items()}
            self.chosen = u, float(state["chosen rho"])


def soft_threshold(v: Mapping[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """Return sign(v) max(|v| − t, 0), the proximal map of t‖·‖₁ (Boyd et al. 2011, Sec. 4.4.3)."""
    return {
        name: value.sign() * (value.abs() - threshold).clamp_min(0) for name, value in v.items()
    }


def quantised(v: Tensor, mask: Tensor, bits: int) -> Tensor:
    """Return v with at most 2^bits different values on the mask (see `few_values`), else 0."""
    result, mask = torch.zeros_like(v), mask.to(v.device)
    result[mask] = few_values(v[mask], 2**bits)
    return result


def _norm(tensors: Mapping[str, Tensor]) -> float:
    """Return ‖·‖₂ over all tensors together."""
    return float(torch.stack([(t.double() ** 2).sum() for t in tensors.values()]).sum().sqrt())
