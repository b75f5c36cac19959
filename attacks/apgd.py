"""Auto-PGD is projected gradient ascent that chooses its own step sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.apgd_l1 import ascend_l1
from attacks.geometry import brief, per_example, steepest, uniform_in_ball, unit
from attacks.inputs import (
    Configured,
    batch_of,
    check_at_least,
    check_number,
    check_seed,
    check_threat,
    generator_for,
    loss_and_gradient,
    misclassified,
    predict,
)
from attacks.losses import LOSSES, Loss, targeted_dlr
from attacks.modes import attacking, check_mode
from attacks.network import Model
from attacks.threat import ThreatModel

LossTowards = Callable[[Tensor], Loss]  # target classes (N,) -> loss


class Climb(NamedTuple):
    """One run's points (N, …), whether they are misclassified (N,), and highest losses (N,)."""

    x_adv: Tensor
    broken: Tensor
    loss: Tensor


class _State(NamedTuple):
    """The examples that are not broken yet; every tensor has one row per example."""

    row: Tensor
    x: Tensor
    y: Tensor
    target: Tensor
    x_adv: Tensor
    x_old: Tensor
    grad: Tensor
    loss: Tensor
    x_best: Tensor
    grad_best: Tensor
    best: Tensor
    best_checked: Tensor  # best loss at the last checkpoint
    reduced: Tensor  # whether the step was halved at the last checkpoint
    rises: Tensor  # steps since the last checkpoint that raised the loss
    step: Tensor

    def select(self, keep: Tensor) -> _State:
        return _State(*(tensor[keep] for tensor in self))


def ranked_targets(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """Return the ``count`` classes other than y with the highest logits, in order: (N, count)."""
    possible = logits.clamp_min(torch.finfo(logits.dtype).min)  # −∞ still comes before y
    return possible.scatter(1, y.unsqueeze(1), -torch.inf).topk(count, dim=1).indices


def ascend(
    model: Model,
    x: Tensor,
    y: Tensor,
    target: Tensor,
    x_adv: Tensor,
    *,
    threat: ThreatModel,
    loss: LossTowards,
    steps: int,
    rho: float,
) -> Climb:
    """Run once in L∞ or L2 from x_adv (Croce & Hein 2020, alg. 1); broken examples stop."""
    rows = torch.arange(len(x), device=x.device)
    logits, value, grad = loss_and_gradient(model, x_adv, y, loss(target))
    grad = threat.uphill(x, x_adv, grad)
    s = _State(
        row=rows,
        x=x,
        y=y,
        target=target,
        x_adv=x_adv,
        x_old=x_adv,
        grad=grad,
        loss=value,
        x_best=x_adv,
        grad_best=grad,
        best=value,
        best_checked=value,
        reduced=torch.ones_like(rows, dtype=torch.bool),
        rises=torch.zeros_like(rows),
        step=2 * per_example(threat.eps, x).expand(len(x), *(1,) * (x.dim() - 1)),
    )
    out, broken, highest = x_adv.clone(), torch.zeros_like(s.reduced), value.clone()
    project = threat.projector(x, exact=False)
    period, shrink = max(int(0.22 * steps), 1), max(int(0.03 * steps), 1)
    shortest, since = max(int(0.06 * steps), 1), 0

    for i in range(steps + 1):
        fooled = misclassified(logits, s.y)
        if bool(fooled.any()):
            out[s.row[fooled]] = s.x_adv[fooled]
            broken[s.row[fooled]] = True
            s = s.select(~fooled)
            if len(s.row) == 0:
                break
            project = threat.select(s.row).projector(s.x, exact=False)
        if i == steps:
            break
        # a step with momentum: 3/4 of this step and 1/4 of the last move (eq. 1 and 2)
        inertia = 0.75 if i > 0 else 1.0
        z = project(s.x_adv + s.step * steepest(s.grad, threat.norm))
        x_adv = project(s.x_adv + inertia * (z - s.x_adv) + (1 - inertia) * (s.x_adv - s.x_old))
        if i + 1 < steps:
            logits, value, grad = loss_and_gradient(model, x_adv, s.y, loss(s.target))
            grad = threat.uphill(s.x, x_adv, grad)
        else:  # the gradient at the last point is not used
            logits = predict(model, x_adv, s.y)
            value, grad = loss(s.target)(logits, s.y), s.grad
        better = value > s.best
        rows = per_example(better, x).bool()
        s = s._replace(
            x_adv=x_adv,
            x_old=s.x_adv,
            grad=grad,
            rises=s.rises + (value > s.loss),
            loss=value,
            best=torch.where(better, value, s.best),
            x_best=torch.where(rows, x_adv, s.x_best),
            grad_best=torch.where(rows, grad, s.grad_best),
        )
        highest[s.row] = s.best
        since += 1
        if since == period:
            s = _checkpoint(s, rho * period)
            period, since = max(period - shrink, shortest), 0

    out[s.row] = s.x_best
    return Climb(threat.project(x, out), broken, highest)


def _checkpoint(s: _State, enough: float) -> _State:
    """Where the loss rose too rarely, halve the step and return to the best point (§3.1)."""
    stuck = ~s.reduced & (s.best_checked >= s.best)
    halve = (s.rises <= enough) | stuck
    rows = halve.reshape(s.step.shape)
    return s._replace(
        step=torch.where(rows, s.step / 2, s.step),
        x_adv=torch.where(rows, s.x_best, s.x_adv),
        grad=torch.where(rows, s.grad_best, s.grad),
        reduced=halve,
        best_checked=s.best,
        rises=torch.zeros_like(s.rises),
    )


@dataclass(frozen=True)
class APGD(Configured):
    """Projected gradient ascent that chooses its own step sizes: Auto-PGD.

    Croce & Hein 2020 (arXiv 2003.01690), alg. 1; in L1, Croce & Hein 2021 (arXiv 2103.01208), alg.
    1, run at 3ε, 2ε and ε in turn. The step starts at 2ε (L1: ε) and is halved where the loss stops
    rising. An example stops at its first misclassified point; for the others, the point with the
    highest loss is returned.

    Args:
        steps: number of gradient evaluations per run.
        restarts: number of runs from different random starts, for every target.
        loss: "ce", "dlr", "margin", or "targeted": the targeted DLR (eq. 7) towards each of at most
            ``targets`` other classes, those with the highest logits, in turn.
        rho: ρ, in (0, 1): the share of steps between two checkpoints that must raise the loss.
        seed: seed of the random starts in every call; None uses torch's global generator.
        mode: mode of the module while it is attacked (then restored): "eval", "train" or "keep".

    Raises:
        ValueError: an option is out of range, logits are NaN, or the batch is invalid.
    """

    threat: ThreatModel
    _: KW_ONLY
    steps: int = 100
    restarts: int = 1
    loss: str = "ce"
    targets: int = 9
    rho: float = 0.75
    seed: int | None = None
    mode: str = "eval"

    def __post_init__(self) -> None:
        check_threat(self.threat)
        check_at_least(1, steps=self.steps, restarts=self.restarts, targets=self.targets)
        check_number("strictly between 0 and 1", rho=self.rho)
        check_seed(self.seed)
        check_mode(self.mode)
        if not isinstance(self.loss, str) or self.loss not in (*LOSSES, "targeted"):
            allowed = ", ".join((*LOSSES, "targeted"))
            raise ValueError(f"loss={brief(self.loss)} is not known; choose one of {allowed}")

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        x, y = batch_of(x, y, threat=self.threat)
        if len(x) == 0:
            return x.clone()
        generator = generator_for(self.seed, x)
        with attacking(model, self.mode):
            worst = x.clone()
            logits = predict(model, x, y)
            targeted = self.loss == "targeted"
            count = min(self.targets, logits.shape[1] - 1) if targeted else 1
            targets = ranked_targets(logits, y, count)
            highest = self._loss(targets[:, 0])(logits, y)
            active = (~misclassified(logits, y)).nonzero().squeeze(1)
            for run in range(count * self.restarts):
                if len(active) == 0:
                    break
                target = targets[active, run // self.restarts]
                climb = self._run(model, x[active], y[active], target, active, generator)
                better = climb.broken | (climb.loss > highest[active])
                worst[active[better]] = climb.x_adv[better]
                highest[active[better]] = climb.loss[better]
                active = active[~climb.broken]
        return worst

    def _loss(self, target: Tensor) -> Loss:
        if self.loss == "targeted":
            return lambda logits, y: targeted_dlr(logits, y, target)
        return LOSSES[self.loss]

    def _run(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        target: Tensor,
        active: Tensor,
        generator: torch.Generator | None,
    ) -> Climb:
        threat = self.threat.select(active)
        draw = uniform_in_ball(x, threat.norm, 1.0, generator)
        start = threat.project(x, x + per_example(threat.eps, x) * unit(draw, threat.norm))
        if threat.norm == "l1":
            run = ascend_l1(
                model, x, y, target, start, threat=threat, loss=self._loss, steps=self.steps
            )
            return Climb(*run)
        return ascend(
            model,
            x,
            y,
            target,
            start,
            threat=threat,
            loss=self._loss,
            steps=self.steps,
            rho=self.rho,
        )
