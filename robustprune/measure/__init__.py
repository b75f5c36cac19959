"""Measure accuracy under attack, which is an upper bound of robust accuracy, and cost."""

from robustprune.measure.accuracy import Outcome, accuracy_curve, constant_answer, evaluate
from robustprune.measure.attack_set import MORE, attack_set
from robustprune.measure.comparison import (
    PairedTest,
    Ranking,
    average_ranks,
    bootstrap_interval,
    groups,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_wilcoxon,
)
from robustprune.measure.cost import Cost, compare_cost
from robustprune.measure.folds import Choice, choose_by_cross_validation, stratified_folds
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
    "Choice",
    "Cost",
    "Outcome",
    "PairedTest",
    "Proportion",
    "Ranking",
    "Spread",
    "SwitchOutcome",
    "accuracy_curve",
    "attack_set",
    "average_ranks",
    "bootstrap_interval",
    "choose_by_cross_validation",
    "compare_cost",
    "constant_answer",
    "evaluate",
    "evaluate_switch",
    "expected_proportion",
    "groups",
    "holm",
    "mcnemar",
    "mean_sd",
    "minimal_summary",
    "nearest_adversarial",
    "paired_bootstrap",
    "paired_wilcoxon",
    "proportion",
    "stratified_folds",
]
