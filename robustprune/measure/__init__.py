"""What is measured: accuracy under attack (upper bounds on robustness), and cost."""

from robustprune.measure.accuracy import Outcome, accuracy_curve, evaluate
from robustprune.measure.attack_set import MORE, attack_set
from robustprune.measure.cost import Cost, compare_cost
from robustprune.measure.minimal_perturbation import minimal_summary, nearest_adversarial
from robustprune.measure.statistics import (
    Proportion,
    Spread,
    expected_proportion,
    mean_sd,
    proportion,
)
from robustprune.measure.switch import SwitchOutcome, evaluate_switch

__all__ = [
    "MORE",
    "Cost",
    "Outcome",
    "Proportion",
    "Spread",
    "SwitchOutcome",
    "accuracy_curve",
    "attack_set",
    "compare_cost",
    "evaluate",
    "evaluate_switch",
    "expected_proportion",
    "mean_sd",
    "minimal_summary",
    "nearest_adversarial",
    "proportion",
]
