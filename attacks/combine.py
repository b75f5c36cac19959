"""Attacks made of attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.gradient import Attack
from attacks.inputs import batch_of, misclassified, predict
from attacks.modes import attacking
from attacks.network import Model


@dataclass(frozen=True)
class WorstOf:
    """The attacks one after the other, each on the examples that all before it left standing.

    A misclassified example comes back unchanged.  Success is judged here, by a forward pass of
    the module in eval mode on what an attack returned, not by the attack's own word.
    """

    attacks: tuple[Attack, ...]

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        x, y = batch_of(x, y)
        if len(x) == 0:
            return x.clone()
        with attacking(model, "eval"):
            worst = x.clone()
            standing = ~misclassified(predict(model, worst, y), y)
            active = standing.nonzero().squeeze(1)
            for attack in self.attacks:
                if len(active) == 0:
                    break
                x_adv = attack(model, worst[active], y[active])
                broken = misclassified(predict(model, x_adv, y[active]), y[active])
                worst[active[broken]] = x_adv[broken]
                active = active[~broken]
        return worst


def worst_of(attacks: Sequence[Attack]) -> WorstOf:
    """Combine attacks into one: the per-example worst case over all of them.

    Raises:
        ValueError: no attack is given.
    """
    if len(attacks) == 0:
        raise ValueError("worst_of needs at least one attack, got an empty sequence")
    return WorstOf(tuple(attacks))


def robust_accuracy(model: Model, x_adv: Tensor, y: Tensor) -> float:
    """Share of examples still classified as y, by one checked forward pass in eval mode."""
    x_adv, y = batch_of(x_adv, y)
    with attacking(model, "eval"):
        logits = predict(model, x_adv, y)
    return (~misclassified(logits, y)).to(torch.float64).mean().item()


@dataclass(frozen=True)
class Transfer:
    """Attack a surrogate and hand its adversarial examples to whatever model is asked about.

    The model itself is never queried: with ``worst_of`` the examples that transfer are kept.
    """

    attack: Attack
    surrogate: Model

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        return self.attack(self.surrogate, x, y)
