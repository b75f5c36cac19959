"""FGSM and PGD: attacks within a fixed radius that follow the gradient with fixed steps."""

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
    """Any callable ``attack(model, x, y) -> x_adv`` that returns x_adv in the shape of x."""

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class FGSM(Configured):
    """Take one steepest-ascent step on the loss, by default the cross-entropy.

    x' = Π(x₀ + α · argmax_{‖v‖≤1} ⟨v, ∇ℓ⟩), in L∞ Π(x₀ + α sign ∇ℓ): Goodfellow et al. 2015 (arXiv
    1412.6572), §4, with x₀ = x and α = ε. With ``random_start`` it is the FGSM-RS of Wong et al.
    2020 (arXiv 2001.03994), alg. 3, with x₀ uniform in the ball and α = 1.25 ε.

    Args:
        step_size: α in input units; None for the values above.
        seed: seed of the random start in every call; None uses torch's global generator.
        mode: mode of the module while it is attacked (then restored): "eval", "train" or "keep".
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
    """Projected gradient ascent within the threat model.

    x_{k+1} = Π(x_k + α · argmax_{‖v‖≤1} ⟨v, ∇ℓ(f(x_k), y)⟩), Madry et al. 2018 (arXiv 1706.06083),
    §2.1. With ``momentum`` μ > 0 the gradient is replaced by g_{k+1} = μ g_k + ∇ℓ/‖∇ℓ‖₁, Dong et
    al. 2018 (arXiv 1710.06081), eq. 6.

    With one restart and without ``early_stop``, it makes exactly ``steps`` forward and backward
    passes and checks values only at the end, so a GPU synchronises once. Otherwise it returns the
    point with the highest loss of every example, and does not attack broken examples again.

    Args:
        steps: K, the number of gradient evaluations per restart.
        step_size: α in input units; None for ``relative_step`` · ε / K.
        restarts: number of runs from different starts; more than one needs ``random_start``.
        loss: "ce" (the cross-entropy, ascended as ``losses.log_odds``), "margin", "dlr", or a
            function of logits (N, C) and y (N,) that returns the loss of each example, (N,).
        early_stop: whether an example stops as soon as it is misclassified.
        seed: seed of the random starts in every call; None uses torch's global generator.
        mode: mode of the module while it is attacked (then restored): "eval", "train" or "keep".

    Raises:
        ValueError: an option is out of range, or the batch is invalid.
        NotFinite: logits or gradients are NaN.
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
        """Return the first point: x, or a random point in the ball around it."""
        return threat.random_start(x, generator, project=project) if self.random_start else x

    def alpha(self, threat: ThreatModel) -> float | Tensor:
        """Return the step size α in this threat model, in input units."""
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
        """Run K forward and K backward passes.

        With ``early_stop``, every example stops at its first misclassified point.
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
            if grad.numel():  # the sign of NaN is 0, but a maximum with NaN is NaN
                highest = torch.maximum(highest, grad.flatten(1).amax(1))
            velocity = self._direction(grad.to(centre), velocity)
            held = ascend(held, velocity)
        out[live] = narrowed(held)
        bad = out.flatten(1).isnan().any(1)
        bad[live] |= highest.isnan()
        if bool(bad.any()):
            predict(model, x, y)  # raises an error of its own if the logits are NaN
            raise gradient_is_not_finite(bad)
        return out if threat.norm == "linf" else threat.project(x, out)

    def _worst(
        self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Restart on the examples that are not broken yet; keep the highest loss of the others."""
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
    """Return the function that rounds a point of the loop to x's dtype, inside its ball."""
    if widened(x) is x:
        return lambda held: held
    project = threat.projector(x, exact=False)
    return lambda held: project(held.to(x.dtype))
