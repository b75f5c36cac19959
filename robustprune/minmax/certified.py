"""Certified training: minimise an upper bound of the worst-case loss instead of an attack's
loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from attacks import ThreatModel
from attacks.network import logits_of, unwrapped
from robustprune.bounds import BoundGraph, crown_ibp_margins, interval_margins, trace
from robustprune.minmax.objectives import check_not_negative, ramp
from robustprune.minmax.result import StepResult

CertifiedMethod = Literal["ibp", "crown-ibp"]


class Certified:
    """Minimise κ ℓ(f(x), y) + (1 − κ) ℓ(−m, y), where m_j ≤ z_y − z_j over the whole threat set.

    z are the logits. t grows from 0 to 1 over `warmup` epochs; the radius of a step is t · ε, and κ
    falls from 1 to `kappa` (Gowal et al. 2018, arXiv 1810.12715, Eq. 12 and Sec. 4). "ibp" computes
    m by intervals. "crown-ibp" uses β m_CROWN-IBP + (1 − β) m_IBP with β = 1 − t (Zhang et al.
    2020, arXiv 1906.06316, Eq. 11), so that it ends with the cheaper bound.

    The "robust" accuracy that the loop shows is the share of examples whose margins are all
    positive. They are certified at the radius of that step, up to rounding.

    Args:
        threat: the threat model, with the ε of the end, the norm and the bounds.
        warmup: the number of epochs in which ε grows. The whole ε from the first step on makes most
            networks give a constant answer.
        kappa: the value of κ at the end, in [0, 1].

    Raises:
        ValueError: `method` is unknown, `kappa` is outside [0, 1], `warmup` is negative, or the
            model has an operation without bounds.
    """

    moves_inputs = True

    def __init__(
        self,
        threat: ThreatModel,
        *,
        method: CertifiedMethod = "ibp",
        warmup: float,
        kappa: float = 0.5,
    ) -> None:
        if method not in ("ibp", "crown-ibp"):
            raise ValueError(f"unknown method {method!r}; choose ibp or crown-ibp")
        if not 0.0 <= kappa <= 1.0:
            raise ValueError(f"kappa={kappa} must lie in [0, 1]")
        check_not_negative(warmup=warmup)
        self.threat, self.method, self.warmup, self.kappa = threat, method, warmup, kappa
        self._graph: BoundGraph | None = None  # tracing costs more than a step of a small network

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> StepResult:
        t = ramp(epoch, self.warmup)
        threat = replace(self.threat, eps=t * self.threat.eps)
        if self._graph is None or self._graph.model is not unwrapped(model):
            self._graph = trace(model)
        clean = logits_of(model, x)
        margins = interval_margins(self._graph, x, y, threat)
        if self.method == "crown-ibp" and t < 1:
            tighter = crown_ibp_margins(self._graph, x, y, threat)
            margins = (1 - t) * tighter + t * margins
        kappa = 1 - t * (1 - self.kappa)
        loss = kappa * F.cross_entropy(clean, y) + (1 - kappa) * F.cross_entropy(-margins, y)
        # a margin of 0 proves nothing; that of the label itself is always 0
        sure = (margins > 0).sum(1) == margins.shape[1] - 1
        return StepResult(loss, sure.sum(), len(y), adversarial=True)
