"""Attacks inside a fixed radius that follow the gradient with fixed steps: FGSM and PGD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

import torch
from torch import Tensor

from attacks.geometry import lengths, per_example
from attacks.inputs import (
    Configured,
    batch_of,
    check_at_least,
    check_flag,
    check_number,
    check_seed,
    check_threat,
    generator_for,
    given,
    gradient_is_not_finite,
    loss_and_gradient,
    misclassified,
    predict,
)
from attacks.losses import Loss, named_loss
from attacks.modes import attacking, check_mode
from attacks.network import Model
from attacks.rounding import widened
from attacks.threat import ThreatModel


class Attack(Protocol):
    """Anything called as ``attack(model, x, y) -> x_adv`` with x_adv shaped like x."""

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class FGSM(Configured):
    """One steepest-ascent step on the cross-entropy.

    x' = Π(x₀ + α · argmax_{‖v‖≤1} ⟨v, ∇ℓ⟩), for L∞ Π(x₀ + α sign ∇ℓ): Goodfellow et al. 2015
    (arXiv 1412.6572), §4, with x₀ = x and α = ε; with ``random_start`` the FGSM-RS of Wong et
    al. 2020 (arXiv 2001.03994), alg. 3, with x₀ uniform in the ball and α = 1.25 ε.

    Args:
        step_size: α in input units; None for the default above.
        seed: None draws from the device's global generator, an int from a fresh one each call.
        mode: "eval" (restored afterwards), "train" or "keep" for a module's mode meanwhile.
    """

    threat: ThreatModel
    _: KW_ONLY
    random_start: bool = False
    step_size: float | None = None
    loss: str = "ce"
    seed: int | None = None
    mode: str = "eval"

    def __post_init__(self) -> None:
        self._one_step()

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        return self._one_step()(model, x, y)

    def _one_step(self) -> PGD:
        return PGD(
            self.threat,
            steps=1,
            step_size=self.step_size,
            relative_step=1.25 if self.random_start is True else 1.0,
            random_start=self.random_start,
            loss=self.loss,
            seed=self.seed,
            mode=self.mode,
        )


@dataclass(frozen=True)
class PGD(Configured):
    """Projected gradient ascent in the threat model.

    x_{k+1} = Π(x_k + α · argmax_{‖v‖≤1} ⟨v, ∇ℓ(f(x_k), y)⟩), Madry et al. 2018
    (arXiv 1706.06083), §2.1.  With ``momentum`` μ > 0 the gradient is replaced by
    g_{k+1} = μ g_k + ∇ℓ/‖∇ℓ‖₁, Dong et al. 2018 (arXiv 1710.06081), eq. 6.

    With one restart and no early stop it makes exactly ``steps`` forward and backward passes and
    looks at no value before the last, so a GPU waits once.  Otherwise it keeps the worst point of
    every example, and leaves out examples that are broken.

    Args:
        steps: K, gradient evaluations per restart.
        step_size: α in input units; None for ``relative_step`` · ε / K.
        restarts: runs from different starts; ``random_start`` must be on for more than one.
        loss: "ce" (the cross-entropy, climbed as ``losses.log_odds``), "margin", "dlr", or a
            function of logits (N, C) and y (N,) that gives each example's loss.
        early_stop: leave an example as soon as it is misclassified.
        seed: None draws from the device's global generator, an int from a fresh one each call.
        mode: "eval" (restored afterwards), "train" or "keep" for a module's mode meanwhile.

    Raises:
        ValueError: see ``attacks.inputs``; and options out of range.
        NotFinite: logits or gradients that are NaN.
    """

    threat: ThreatModel
    _: KW_ONLY
    steps: int = 10
    step_size: float | None = None
    relative_step: float = 2.5
    restarts: int = 1
    random_start: bool = True
    momentum: float = 0.0
    loss: str | Loss = "ce"
    early_stop: bool = False
    seed: int | None = None
    mode: str = "eval"

    def __post_init__(self) -> None:
        check_threat(self.threat)
        check_at_least(1, steps=self.steps, restarts=self.restarts)
        check_number("above 0", relative_step=self.relative_step)
        check_number("above 0", **given(step_size=self.step_size))
        check_number("at least 0", momentum=self.momentum)
        check_flag(random_start=self.random_start, early_stop=self.early_stop)
        named_loss(self.loss)
        check_seed(self.seed)
        check_mode(self.mode)
        if self.restarts > 1 and not self.random_start:
            raise ValueError(
                f"restarts={self.restarts} without random_start repeats one and the same run; "
                "set random_start=True or restarts=1"
            )

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        plain = self.restarts == 1 and not self.early_stop
        x, y = batch_of(x, y, threat=self.threat, look=not plain)
        if len(x) == 0:
            return x.clone()
        generator = generator_for(self.seed, x)
        with attacking(model, self.mode):
            if plain:
                return self._run(model, x, y, self.threat, generator)
            return self._worst(model, x, y, generator)

    def start(
        self,
        threat: ThreatModel,
        x: Tensor,
        project: Callable[[Tensor], Tensor],
        generator: torch.Generator | None,
    ) -> Tensor:
        """The first point: x, or one drawn from the ball around it."""
        return threat.random_start(x, generator, project=project) if self.random_start else x

    def alpha(self, threat: ThreatModel) -> float | Tensor:
        """The step size α in that threat model, input units."""
        if self.step_size is not None:
            return self.step_size
        return self.relative_step * threat.eps / self.steps

    def _direction(self, grad: Tensor, velocity: Tensor | None) -> Tensor:
        if self.momentum == 0:
            return grad
        tiny = torch.finfo(grad.dtype).tiny
        grad = grad / per_example(lengths(grad, "l1").clamp_min(tiny), grad)
        return grad if velocity is None else self.momentum * velocity + grad

    def _run(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        generator: torch.Generator | None,
    ) -> Tensor:
        """One run of K forward and K backward passes.

        With ``early_stop`` every example leaves it at the first point that is misclassified.
        """
        loss, centre = named_loss(self.loss), widened(x)
        project = threat.projector(centre, exact=False)
        held = self.start(threat, centre, project, generator)
        ascend = threat.ascent(centre, self.alpha(threat), project)
        narrowed, labels, velocity = _narrowing(threat, x), y, None
        out, live = torch.empty_like(x), torch.arange(len(x), device=x.device)
        highest = x.new_full((len(x),), -torch.inf)
        for k in range(self.steps):
            x_adv = narrowed(held)
            look = self.early_stop or (k == 0 and x.device.type == "cpu")
            logits, _, grad = loss_and_gradient(model, x_adv, labels, loss, look=look)
            if self.early_stop and not bool((going := ~misclassified(logits, labels)).all()):
                out[live] = x_adv
                live, labels, highest = live[going], labels[going], highest[going]
                held, grad = held[going], grad[going]
                velocity = None if velocity is None else velocity[going]
                still, near = threat.select(live), centre[live]
                project = still.projector(near, exact=False)
                ascend = still.ascent(near, self.alpha(still), project)
                narrowed = _narrowing(still, x[live])
                if len(live) == 0:
                    break
            if grad.numel():  # the sign of NaN is 0, but no maximum forgets it
                highest = torch.maximum(highest, grad.flatten(1).amax(1))
            velocity = self._direction(grad.to(centre), velocity)
            held = ascend(held, velocity)
        out[live] = narrowed(held)
        bad = out.flatten(1).isnan().any(1)
        bad[live] |= highest.isnan()
        if bool(bad.any()):
            predict(model, x, y)  # raises where it is the logits that are NaN
            raise gradient_is_not_finite(bad)
        return out if threat.norm == "linf" else threat.project(x, out)

    def _worst(
        self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Restarts on the examples not yet broken; the highest loss of the others."""
        loss = named_loss(self.loss)
        worst = x.clone()
        highest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        active = torch.arange(len(x), device=x.device)
        for _ in range(self.restarts):
            threat = self.threat.select(active)
            x_adv = self._run(model, x[active], y[active], threat, generator)
            logits = predict(model, x_adv, y[active])
            value = loss(logits, y[active]).to(x.dtype)
            broken = misclassified(logits, y[active])
            better = broken | (value > highest[active])
            worst[active[better]] = x_adv[better]
            highest[active[better]] = value[better]
            active = active[~broken]
            if len(active) == 0:
                break
        return worst


def _narrowing(threat: ThreatModel, x: Tensor) -> Callable[[Tensor], Tensor]:
    """What the network is given of a point of the loop: like x, and in its ball."""
    if widened(x) is x:
        return lambda held: held
    project = threat.projector(x, exact=False)
    return lambda held: project(held.to(x.dtype))
