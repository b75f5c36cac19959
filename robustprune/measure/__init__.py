"""How robust a network is, measured: accuracy under attack, upper bounds on robustness."""

from robustprune.measure.accuracy import Outcome, accuracy_curve, evaluate
from robustprune.measure.statistics import (
    Proportion,
    Spread,
    expected_proportion,
    mean_sd,
    proportion,
)
from robustprune.measure.switch import SwitchOutcome, evaluate_switch

__all__ = [
    "Outcome",
    "Proportion",
    "Spread",
    "SwitchOutcome",
    "accuracy_curve",
    "evaluate",
    "evaluate_switch",
    "expected_proportion",
    "mean_sd",
    "proportion",
]
