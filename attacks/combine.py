"""Attacks made of attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from attacks.geometry import brief
from attacks.gradient import Attack
from attacks.inputs import batch_of, misclassified, predict
from attacks.modes import attacking, check_mode
from attacks.network import Model
from attacks.returned import attacked, check_radii, for_examples, threat_of
from attacks.threat import ThreatModel


@dataclass(frozen=True)
class WorstOf:
    """The attacks one after the other, each on the examples that all before it left standing.

    A misclassified example comes back unchanged.  Success is judged here, by a forward pass of
    the module on what an attack returned, inside its threat model, not by the attack's own word.

    Args:
        mode: "eval" (restored afterwards), "train" or "keep", for the passes that judge; each
            attack has its own.
    """

    attacks: tuple[Attack, ...]
    _: KW_ONLY
    mode: str = "eval"

    def __post_init__(self) -> None:
        check_mode(self.mode)
        for attack in self.attacks:
            if not callable(attack):
                raise ValueError(f"{brief(attack)} is no attack: it cannot be called")

    @property
    def threat(self) -> ThreatModel | None:
        """The threat model of all the attacks; None where they have not one and the same."""
        threats = [threat_of(attack) for attack in self.attacks]
        return threats[0] if threats and all(one is threats[0] for one in threats) else None

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        x, y = batch_of(x, y)
        for attack in self.attacks:
            check_radii(attack, x)
        if len(x) == 0:
            return x.clone()
        with attacking(model, self.mode):
            worst = x.clone()
            standing = ~misclassified(predict(model, worst, y), y)
            active = standing.nonzero().squeeze(1)
            for attack in self.attacks:
                if len(active) == 0:
                    break
                narrow = for_examples(attack, x, active)
                x_adv = attacked(narrow, model, worst[active], y[active])
                broken = misclassified(predict(model, x_adv, y[active]), y[active])
                worst[active[broken]] = x_adv[broken]
                active = active[~broken]
        return worst


def worst_of(attacks: Sequence[Attack], *, mode: str = "eval") -> WorstOf:
    """Combine attacks into one: the per-example worst case over all of them.

    Args:
        mode: see ``WorstOf``.

    Raises:
        ValueError: no attack is given.
    """
    if len(attacks) == 0:
        raise ValueError("worst_of needs at least one attack, got an empty sequence")
    return WorstOf(tuple(attacks), mode=mode)


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

    @property
    def threat(self) -> ThreatModel | None:
        """That of the attack."""
        return threat_of(self.attack)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        x, y = batch_of(x, y)
        return x.clone() if len(x) == 0 else attacked(self.attack, self.surrogate, x, y)
