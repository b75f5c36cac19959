"""Distillation under attack: a trained network, the teacher, says what the student should answer.

The dense network is a natural teacher of its ticket:
`finetune_ticket(ticket, loader, Rslad(dense, attack))`.

KL is the divergence of each example, summed over the classes, and its mean over the batch is
reduced. (`torch.nn.KLDivLoss()` divides by the number of classes too, so that the published codes
of ARD and RSLAD minimise these losses divided by it.)
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import PGD, Attack
from attacks.modes import evaluating
from attacks.network import Model, logits_of, unwrapped
from attacks.rounding import widened
from attacks.scale import scaled
from robustprune.minmax.finite import first_weight
from robustprune.minmax.objectives import check_climbs, check_not_negative, divergence, ramp
from robustprune.minmax.result import Loss, Prepared, StepResult, tally


class _Step(NamedTuple):
    """A batch x, y with its adversarial examples and the teacher's logits at x."""

    x: Tensor
    x_adv: Tensor
    y: Tensor
    epoch: float
    answers: Tensor


class _Distilled(Prepared):
    """The parts that all distillations share: the teacher's answers, the attack, and the loss."""

    moves_inputs: ClassVar[bool] = True
    teacher: Model
    attack: Attack
    warmup: float

    def points(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Tensor:
        return self._attacked(model, x, y, epoch, answers_of(self.teacher, model, x))

    def prepared(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Loss:
        answers = answers_of(self.teacher, model, x)
        x_adv = self._attacked(model, x, y, epoch, answers)
        step = _Step(x, x_adv, y, epoch, answers)

        def loss(network: nn.Module) -> StepResult:
            attacked = logits_of(network, x_adv)
            value = self._loss(network, attacked, step)
            return StepResult(value, *tally(attacked, y), adversarial=True)

        return loss

    def _attacked(
        self, model: nn.Module, x: Tensor, y: Tensor, epoch: float, answers: Tensor
    ) -> Tensor:
        """Return x', where the attack climbs the student's cross-entropy."""
        return scaled(self.attack, ramp(epoch, self.warmup))(model, x, y)

    @abstractmethod
    def _loss(self, model: nn.Module, attacked: Tensor, step: _Step) -> Tensor:
        """Return the mean loss, given the student's logits at x'."""


@dataclass(frozen=True)
class Ard(_Distilled):
    """Minimise E α t² KL(T(x)/t ‖ S(x')/t) + (1 − α) ℓ(S(x), y), which is ARD.

    T and S are the logits of teacher and student, and x' comes from an attack on the student's
    cross-entropy. See Goldblum et al. 2020 (arXiv 1905.09747, Eq. 3).

    Attributes:
        teacher: the network T. It is evaluated in eval mode and never changed.
        attack: the attack that makes x' from x.
        alpha: α in [0, 1], the weight of the teacher (1 in the authors' results).
        temperature: t > 0, which softens both answers (30 in the authors' results).
        warmup: the number of epochs in which ε grows linearly from zero; 0 for none.

    Raises:
        ValueError: an option is out of range, or a weight of the teacher is not finite.
    """

    teacher: Model = field(repr=False)
    attack: Attack
    alpha: float = 1.0
    temperature: float = 30.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        _check(self.teacher, self.warmup, alpha=self.alpha, temperature=self.temperature)

    def _loss(self, model: nn.Module, attacked: Tensor, step: _Step) -> Tensor:
        taught = softened(step.answers, attacked, self.temperature).mean()
        if self.alpha == 1:
            return taught
        clean = F.cross_entropy(logits_of(model, step.x), step.y)
        return self.alpha * taught + (1 - self.alpha) * clean


@dataclass(frozen=True)
class Rslad(_Distilled):
    """Minimise E (1 − w) max_{‖δ‖≤ε} KL(T(x) ‖ S(x+δ)) + w KL(T(x) ‖ S(x)), which is RSLAD.

    Labels take no part: the attack, too, maximises the divergence from the teacher's answer to the
    clean example. See Zi et al. 2021 (arXiv 2108.07969, Eq. 4 and 5). (The authors start the attack
    at a normal distance of 0.001 from x; here it starts where the attack says.)

    Attributes:
        teacher: the network T. It is evaluated in eval mode and never changed.
        attack: PGD or FGSM, whose loss is replaced by the divergence, without `restarts` and
            `early_stop`, because these choose points by the label.
        clean: w in [0, 1], the weight of clean examples (1/6 in the paper).
        warmup: the number of epochs in which ε grows linearly from zero; 0 for none.

    Raises:
        ValueError: an option is out of range, or a weight of the teacher is not finite.
    """

    teacher: Model = field(repr=False)
    attack: PGD
    clean: float = 1 / 6
    warmup: float = 0.0

    def __post_init__(self) -> None:
        _check(self.teacher, self.warmup, clean=self.clean)
        check_climbs("RSLAD", self.attack)

    def _attacked(
        self, model: nn.Module, x: Tensor, y: Tensor, epoch: float, answers: Tensor
    ) -> Tensor:
        attack = replace(self.attack, loss=lambda logits, _: softened(answers, logits, 1.0))
        return scaled(attack, ramp(epoch, self.warmup))(model, x, y)

    def _loss(self, model: nn.Module, attacked: Tensor, step: _Step) -> Tensor:
        robust = softened(step.answers, attacked, 1.0).mean()
        if self.clean == 0:
            return robust
        clean = softened(step.answers, logits_of(model, step.x), 1.0).mean()
        return (1 - self.clean) * robust + self.clean * clean


@dataclass(frozen=True)
class Iad(_Distilled):
    """Minimise α E [t² KL(T(x)/t ‖ S(x')/t) + (1 − T_y(x')^β) KL(S(x) ‖ S(x'))] + (1 − α) E ℓ, IAD.

    T_y(x') is the teacher's probability of the true class at the student's adversarial example, and
    ℓ = ℓ(S(x), y). So far as the teacher itself is deceived there, the student listens to its own
    answer to the clean example. See Zhu et al. 2022 (ICLR, arXiv 2106.04928; the loss is that of
    the authors' code, IAD-I).

    Attributes:
        teacher: the network T. It is evaluated in eval mode and never changed.
        attack: the attack that makes x' from x, by the student's cross-entropy.
        alpha: α in [0, 1], the weight of both divergences (1 in the authors' code).
        temperature: t > 0, which softens teacher and student in the first divergence (1 there).
        beta: β ≥ 0, how fast the trust in the teacher falls (0.1 there; at 0 it never does).
        start: the number of epochs after which the second divergence counts (60 of 200 there).
        warmup: the number of epochs in which ε grows linearly from zero; 0 for none.

    Raises:
        ValueError: an option is out of range, or a weight of the teacher is not finite.
    """

    teacher: Model = field(repr=False)
    attack: Attack
    alpha: float = 1.0
    temperature: float = 1.0
    beta: float = 0.1
    start: float = 0.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        _check(self.teacher, self.warmup, alpha=self.alpha, temperature=self.temperature)
        check_not_negative(beta=self.beta, start=self.start)

    def _loss(self, model: nn.Module, attacked: Tensor, step: _Step) -> Tensor:
        own = step.epoch >= self.start
        loss = self.alpha * softened(step.answers, attacked, self.temperature).mean()
        if not own and self.alpha == 1:
            return loss
        clean = logits_of(model, step.x)
        if own:
            guess = widened(answers_of(self.teacher, model, step.x_adv)).softmax(1)
            doubt = 1 - guess.gather(1, step.y.unsqueeze(1)).squeeze(1).pow(self.beta)
            loss = loss + self.alpha * (doubt * softened(clean, attacked, 1.0)).mean()
        if self.alpha < 1:
            loss = loss + (1 - self.alpha) * F.cross_entropy(clean, step.y)
        return loss


def softened(taught: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Return t² KL(taught/t ‖ logits/t) of each example, (N, C) and (N, C) -> (N,), in at least
    float32.

    Raises:
        ValueError: the shapes differ, so that the two networks do not tell the same classes apart.
    """
    if taught.shape != logits.shape:
        raise ValueError(
            f"the teacher's logits have shape {tuple(taught.shape)} and the student's "
            f"{tuple(logits.shape)}; both networks must have the same classes"
        )
    t = temperature
    return t**2 * divergence(widened(taught) / t, widened(logits) / t)


def answers_of(teacher: Model, student: nn.Module, x: Tensor) -> Tensor:
    """Return the teacher's logits at x in eval mode, without a gradient.

    Raises:
        ValueError: the teacher is the student itself, or is on another device than x.
    """
    if isinstance(teacher, nn.Module):
        if unwrapped(teacher) is unwrapped(student):
            raise ValueError(
                "the teacher is the very network that is trained, which it already agrees with; "
                "give copy.deepcopy(network) as the teacher"
            )
        weight = next(teacher.parameters(), x)
        if weight.device != x.device:
            raise ValueError(
                f"the teacher is on {weight.device} and the batch on {x.device}; call "
                f"teacher.to({str(x.device)!r})"
            )
    with evaluating(teacher), torch.no_grad():
        return logits_of(teacher, x)


def _check(teacher: Model, warmup: float, *, temperature: float = 1.0, **shares: float) -> None:
    """Raise a ValueError for options that no distillation can use."""
    if not callable(teacher):
        raise ValueError(
            f"teacher={teacher!r:.80} is no network; give the trained network that teaches, such "
            "as the dense one"
        )
    if isinstance(teacher, nn.Module) and (bad := first_weight(teacher)) is not None:
        raise ValueError(f"{bad} of the teacher is not finite")
    check_not_negative(warmup=warmup)
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be positive and finite")
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} must lie in [0, 1]")
