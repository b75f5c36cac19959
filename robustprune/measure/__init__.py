"""Measure accuracy under attack, which is an upper bound of robust accuracy, what else compression
changes (calibration, answers, fairness, shift, privacy), and cost."""

from robustprune.measure.accuracy import Outcome, accuracy_curve, constant_answer, evaluate
from robustprune.measure.attack_set import MORE, attack_set
from robustprune.measure.auroc import PairedAuroc, auroc, paired_auroc
from robustprune.measure.calibration import (
    Calibration,
    attacked_calibration,
    calibration,
    calibration_of,
)
from robustprune.measure.comparison import (
    PairedTest,
    Ranking,
    average_ranks,
    bootstrap_interval,
    exact_difference,
    groups,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_wilcoxon,
)
from robustprune.measure.cost import Cost, compare_cost
from robustprune.measure.disagreement import Disagreement, Flips, disagreement
from robustprune.measure.fairness import Fairness, fairness, fairness_of
from robustprune.measure.folds import Choice, choose_by_cross_validation, stratified_folds
from robustprune.measure.membership import Membership, likelihood_ratio, membership
from robustprune.measure.minimal_perturbation import minimal_summary, nearest_adversarial
from robustprune.measure.ood import Detection, detection, surrogates
from robustprune.measure.shift import SEVERITIES, Shifted, corrupt, corruption_names, shifted
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
    "SEVERITIES",
    "Calibration",
    "Choice",
    "Cost",
    "Detection",
    "Disagreement",
    "Fairness",
    "Flips",
    "Membership",
    "Outcome",
    "PairedAuroc",
    "PairedTest",
    "Proportion",
    "Ranking",
    "Shifted",
    "Spread",
    "SwitchOutcome",
    "accuracy_curve",
    "attack_set",
    "attacked_calibration",
    "auroc",
    "average_ranks",
    "bootstrap_interval",
    "calibration",
    "calibration_of",
    "choose_by_cross_validation",
    "compare_cost",
    "constant_answer",
    "corrupt",
    "corruption_names",
    "detection",
    "disagreement",
    "evaluate",
    "evaluate_switch",
    "exact_difference",
    "expected_proportion",
    "fairness",
    "fairness_of",
    "groups",
    "holm",
    "likelihood_ratio",
    "mcnemar",
    "mean_sd",
    "membership",
    "minimal_summary",
    "nearest_adversarial",
    "paired_auroc",
    "paired_bootstrap",
    "paired_wilcoxon",
    "proportion",
    "shifted",
    "stratified_folds",
    "surrogates",
]
