"""Attacks on classifiers with any input shape, any bounds and two or more classes.

An attack is a frozen dataclass, ``PGD(ThreatModel(norm="linf", eps=0.1), steps=20)``, and is called
as ``attack(model, x, y) -> x_adv`` with a module or any callable that returns logits. Attacks
within a fixed radius take a ``ThreatModel`` first. Attacks that search for the nearest adversarial
example (DeepFool, CW, DDN, FMN, FAB) take a norm and bounds, and return x where they find none.
"""

from attacks.apgd import APGD
from attacks.bisection import Bisection
from attacks.combine import Transfer, WorstOf, robust_accuracy, worst_of
from attacks.cw import CW
from attacks.ddn import DDN
from attacks.deepfool import DeepFool
from attacks.ensemble import AutoAttack, Evaluation
from attacks.fab import FAB
from attacks.fmn import FMN
from attacks.frequency import AdvDrop
from attacks.gradient import FGSM, PGD, Attack
from attacks.minimal import MinimalPerturbation, minimal_perturbation
from attacks.modes import attacking, evaluating, frozen
from attacks.network import Model, NotFinite, logits_of, pick_logits, unwrapped
from attacks.peers import TorchAttack, from_torchattacks
from attacks.presets import preset
from attacks.query import Square
from attacks.sanity import EvaluationWarning, Finding, check_attacks
from attacks.sensor import BandLimited
from attacks.threat import ThreatModel

__all__ = [
    "APGD",
    "CW",
    "DDN",
    "FAB",
    "FGSM",
    "FMN",
    "PGD",
    "AdvDrop",
    "Attack",
    "AutoAttack",
    "BandLimited",
    "Bisection",
    "DeepFool",
    "Evaluation",
    "EvaluationWarning",
    "Finding",
    "MinimalPerturbation",
    "Model",
    "NotFinite",
    "Square",
    "ThreatModel",
    "TorchAttack",
    "Transfer",
    "WorstOf",
    "attacking",
    "check_attacks",
    "evaluating",
    "from_torchattacks",
    "frozen",
    "logits_of",
    "minimal_perturbation",
    "pick_logits",
    "preset",
    "robust_accuracy",
    "unwrapped",
    "worst_of",
]
