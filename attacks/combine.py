"""Attacks that are made of other attacks."""

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
    """Run attacks in turn, each on the examples that the attacks before did not break.

    An example that is misclassified without an attack is returned unchanged. Success is judged here
    by a forward pass on the points that an attack returned, projected on its threat model if it has
    one.

    Args:
        mode: mode of the module for the passes that judge the points: "eval", "train" or "keep";
            each attack has its own mode.
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
        """Return the threat model that all the attacks share, or None if they differ."""
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
    """Combine attacks into one: the worst case over all of them for each example.

    Args:
        mode: see ``WorstOf``.

    Raises:
        ValueError: `attacks` is empty.
    """
    if len(attacks) == 0:
        raise ValueError("worst_of needs at least one attack, got an empty sequence")
    return WorstOf(tuple(attacks), mode=mode)


def robust_accuracy(model: Model, x_adv: Tensor, y: Tensor) -> float:
    """Return the share of examples that are classified as y, by one forward pass in eval mode."""
    x_adv, y = batch_of(x_adv, y)
    with attacking(model, "eval"):
        logits = predict(model, x_adv, y)
    return (~misclassified(logits, y)).to(torch.float64).mean().item()


@dataclass(frozen=True)
class Transfer:
    """Attack a surrogate model and return its adversarial examples for any other model.

    The other model is never queried. Inside ``worst_of``, the examples that transfer are kept.
    """

    attack: Attack
    surrogate: Model

    @property
    def threat(self) -> ThreatModel | None:
        """Return the threat model of the attack."""
        return threat_of(self.attack)

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        x, y = batch_of(x, y)
        return x.clone() if len(x) == 0 else attacked(self.attack, self.surrogate, x, y)
