"""Objectives: the loss that a training step minimises, as a function of model and batch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks import FGSM, PGD, Attack, attacking
from attacks.network import logits_of
from attacks.scale import scaled
from robustprune.minmax.result import (
    Loss,
    Objective,
    Prepared,
    StepResult,
    cross_entropy,
    points_of,
    prepared,
    tally,
)


def ramp(epoch: float, warmup: float) -> float:
    """Return a number that grows from 0 to 1 over the first `warmup` epochs."""
    return min(1.0, epoch / warmup) if warmup > 0 else 1.0


def check_not_negative(**options: float) -> None:
    """Raise a ValueError if an option is negative, infinite or NaN."""
    for name, value in options.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value} must be at least 0 and finite")


class _CrossEntropy(Prepared):
    """An objective that is the cross-entropy at the inputs that `points` returns."""

    moves_inputs: ClassVar[bool] = True
    adversarial: ClassVar[bool] = True

    @abstractmethod
    def points(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Tensor:
        """Return where the loss is computed: the inputs themselves, or the attacked ones."""

    def prepared(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Loss:
        points = self.points(model, x, y, epoch)

        def loss(network: nn.Module) -> StepResult:
            logits = logits_of(network, points)
            return StepResult(cross_entropy(logits, y), *tally(logits, y), self.adversarial)

        return loss


@dataclass(frozen=True)
class Natural(_CrossEntropy):
    """Minimise the plain cross-entropy, E ℓ(f(x), y).

    x may be token ids, and y may have one label for each token, (N, T) for logits (N, T, C): the
    next token, or −100 where none is predicted.
    """

    moves_inputs: ClassVar[bool] = False
    adversarial: ClassVar[bool] = False

    def points(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Tensor:
        return x


@dataclass(frozen=True)
class Adversarial(_CrossEntropy):
    """Minimise E max_{‖δ‖≤ε} ℓ(f(x+δ), y), which is adversarial training.

    See Madry et al. 2018 (arXiv 1706.06083, Eq. 2.1). With `FGSM(threat, random_start=True)` it is
    FGSM-RS of Wong et al. 2020 (arXiv 2001.03994).

    Attributes:
        attack: the attack that approximates the inner maximum. It also decides whether the model is
            in train or eval mode meanwhile.
        warmup: the number of epochs in which ε grows linearly from zero. A large ε from the start
            on can leave small networks with a constant answer forever.
    """

    attack: Attack
    warmup: float = 0.0

    def __post_init__(self) -> None:
        check_not_negative(warmup=self.warmup)

    def points(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Tensor:
        return scaled(self.attack, ramp(epoch, self.warmup))(model, x, y)


@dataclass(frozen=True)
class OnAttacked(Prepared):
    """Minimise another objective on attacked batches: E objective(f, attack(f, x, y)).

    It is for two adversaries of the same batch, such as one who replaces words and, in `objective`,
    one who perturbs their embeddings.

    Raises:
        ValueError: the objective keeps a state from step to step, which is useless if each step
            attacks the batch again, or it is an Awp.
    """

    attack: Attack
    objective: Objective
    moves_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if hasattr(self.objective, "state_dict"):
            raise ValueError(
                f"{type(self.objective).__name__} keeps a state from step to step, which does not "
                "go with batches that each step attacks anew; take another objective"
            )
        refuse_perturbed(self.objective)

    def prepared(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Loss:
        loss = prepared(self.objective, model, self.attack(model, x, y), y, epoch)
        return lambda network: replace(loss(network), adversarial=True)

    def points(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Tensor:
        return points_of(self.objective, model, self.attack(model, x, y), y, epoch)


@dataclass(frozen=True)
class Trades(Prepared):
    """Minimise E ℓ(f(x), y) + β max_{‖δ‖≤ε} KL(p(x) ‖ p(x+δ)), which is TRADES.

    See Zhang et al. 2019 (arXiv 1901.08573, Eq. 5). The attack maximises the divergence itself and
    starts from a point drawn uniformly in the ball. (The authors start at distance 0.001 from x; at
    x itself the gradient is zero.)

    Attributes:
        attack: PGD or FGSM, whose loss is replaced by the divergence. It needs `random_start`, and
            no `restarts` and `early_stop`, because these choose points by the label.
        beta: β, the weight of robustness (1/λ in the paper; 6 in its CIFAR-10 results).
        warmup: the number of epochs in which ε grows linearly from zero; 0 for none.
        symmetric: whether KL(p ‖ q) + KL(q ‖ p) replaces the divergence, as in the smoothness
            regulariser of SMART without its proximal term (Jiang et al. 2020, arXiv 1911.03437,
            Eq. 3).
    """

    attack: PGD
    beta: float = 6.0
    warmup: float = 0.0
    symmetric: bool = False
    moves_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_not_negative(beta=self.beta, warmup=self.warmup)
        check_climbs("TRADES", self.attack)
        if not self.attack.random_start:
            raise ValueError("TRADES needs random_start: at x itself the divergence is flat")

    def points(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Tensor:
        with attacking(model, self.attack.mode), torch.no_grad():  # batch norm as in the attack
            fixed = logits_of(model, x)
        attack = replace(self.attack, loss=lambda logits, _: self._divergence(fixed, logits))
        return scaled(attack, ramp(epoch, self.warmup))(model, x, y)

    def prepared(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Loss:
        x_adv = self.points(model, x, y, epoch)
        return lambda network: self._at(network, x, x_adv, y)

    def _at(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> StepResult:
        clean, attacked = logits_of(model, x), logits_of(model, x_adv)
        robustness = self._divergence(clean, attacked).mean()
        loss = cross_entropy(clean, y) + self.beta * robustness
        return StepResult(loss, *tally(attacked, y), adversarial=True)

    def _divergence(self, clean: Tensor, attacked: Tensor) -> Tensor:
        one_way = divergence(clean, attacked)
        return one_way + divergence(attacked, clean) if self.symmetric else one_way


@dataclass(frozen=True)
class Mart(Prepared):
    """Minimise E BCE(p(x'), y) + λ KL(p(x) ‖ p(x')) (1 − p_y(x)), which is MART.

    BCE(p, y) = −log p_y − log(1 − max_{k≠y} p_k); see Wang et al. 2020 (ICLR, "Improving
    adversarial robustness requires revisiting misclassified examples", Eq. 10 and 11).

    Attributes:
        attack: the attack that makes x' from x.
        weight: λ (5 in the paper's CIFAR-10 results).
        warmup: the number of epochs in which ε grows linearly from zero; 0 for none.
    """

    attack: Attack
    weight: float = 5.0
    warmup: float = 0.0
    moves_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_not_negative(weight=self.weight, warmup=self.warmup)

    def points(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Tensor:
        return scaled(self.attack, ramp(epoch, self.warmup))(model, x, y)

    def prepared(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Loss:
        x_adv = self.points(model, x, y, epoch)
        return lambda network: self._at(network, x, x_adv, y)

    def _at(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> StepResult:
        clean, attacked = logits_of(model, x), logits_of(model, x_adv)
        wrong = attacked.softmax(1).scatter(1, y.unsqueeze(1), 0.0).amax(1)
        tiny = torch.finfo(wrong.dtype).eps
        boosted = F.cross_entropy(attacked, y, reduction="none") - (1 - wrong + tiny).log()
        doubt = 1 - clean.softmax(1).gather(1, y.unsqueeze(1)).squeeze(1)
        loss = boosted + self.weight * doubt * divergence(clean, attacked)
        return StepResult(loss.mean(), *tally(attacked, y), adversarial=True)


@dataclass(frozen=True)
class Gaussian(_CrossEntropy):
    """Minimise the cross-entropy under noise, E ℓ(f(x + σ n), y) with n ~ N(0, I).

    It prepares a classifier for smoothing (Cohen et al. 2019, arXiv 1902.02918, Sec. 3.3).

    Attributes:
        sigma: σ in input units. The noise may leave the bounds of the inputs, as in smoothing.
        support: a function from a batch to the entries that get noise, as in `ThreatModel`; None
            for all entries.
    """

    sigma: float
    support: Callable[[Tensor], Tensor] | None = None
    adversarial: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma={self.sigma} must be positive and finite, in input units")

    def points(self, model: nn.Module, x: Tensor, y: Tensor, epoch: float) -> Tensor:
        noise = self.sigma * torch.randn_like(x)
        return x + (noise if self.support is None else noise * self.support(x))


def refuse_perturbed(inner: object) -> None:
    """Raise a ValueError for an objective inside of another one that perturbs the weights, because
    only the loop can do that, for the objective that it is given."""
    if hasattr(inner, "around"):
        raise ValueError(
            f"{type(inner).__name__} has no effect inside of another objective; put it around the "
            "others, as in Awp(OnAttacked(...))"
        )


def check_climbs(name: str, attack: object) -> None:
    """Raise a ValueError unless an attack can climb a divergence instead of its own loss."""
    if not isinstance(attack, PGD | FGSM):
        raise ValueError(
            f"{name} climbs the divergence with PGD or FGSM, not {type(attack).__name__}; "
            "take Adversarial(attack) for another attack"
        )
    check_one_run(name, attack)
    if attack.loss != "ce":
        raise ValueError(
            f"{name} replaces the attack's loss={attack.loss!r} by the divergence; leave the loss "
            "out"
        )


def check_one_run(name: str, attack: FGSM | PGD) -> None:
    """Raise a ValueError for restarts and early stop, because both choose points by the label."""
    if isinstance(attack, PGD) and (attack.restarts > 1 or attack.early_stop):
        raise ValueError(
            f"{name} makes one whole run of its attack, not restarts={attack.restarts} with "
            f"early_stop={attack.early_stop}; set restarts=1 and early_stop=False"
        )


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """Return KL(p ‖ q) of each example from two tensors of logits, (N, C) and (N, C) -> (N,)."""
    log_p, log_q = clean.log_softmax(1), attacked.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)
