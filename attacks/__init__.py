"""Attacks on classifiers: any input shape, any bounds, any number of classes from two.

An attack is a frozen dataclass, ``PGD(ThreatModel(norm="linf", eps=0.1), steps=20)``, called as
``attack(model, x, y) -> x_adv`` with a module or any callable that returns logits.
"""

from attacks.combine import WorstOf, robust_accuracy, worst_of
from attacks.gradient import FGSM, PGD, Attack
from attacks.modes import Model, attacking, evaluating, frozen
from attacks.threat import ThreatModel

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "Model",
    "ThreatModel",
    "WorstOf",
    "attacking",
    "evaluating",
    "frozen",
    "robust_accuracy",
    "worst_of",
]
