"""Measure accuracy under attack, which is an upper bound of robust accuracy, what else compression
changes (calibration, answers, fairness, shift, privacy), and cost."""

from robustprune.measure.accuracy import Outcome, accuracy_curve, constant_answer, evaluate
from robustprune.measure.answers import worst_examples
from robustprune.measure.attack_set import MORE, attack_set
from robustprune.measure.auroc import PairedAuroc, auroc, paired_auroc
from robustprune.measure.backdoor import backdoor_success, poison, stamp
from robustprune.measure.brittleness import Brittleness, brittleness
from robustprune.measure.calibration import (
    Calibration,
    attacked_calibration,
    calibration,
    calibration_of,
)
from robustprune.measure.change import Change, changes
from robustprune.measure.choices import Choices, Question, cloze_questions, multiple_choice
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
from robustprune.measure.continuations import (
    Continuations,
    greedy_continuations,
    judge_continuations,
)
from robustprune.measure.cost import Cost, compare_cost
from robustprune.measure.disagreement import Disagreement, Flips, disagreement
from robustprune.measure.fairness import Fairness, fairness, fairness_of
from robustprune.measure.folds import Choice, choose_by_cross_validation, stratified_folds
from robustprune.measure.harness import TaskFigure, harness_tasks
from robustprune.measure.leakage import Leakage, Secrets, judge_secrets, leakage
from robustprune.measure.membership import (
    Membership,
    likelihood_ratio,
    likelihood_ratio_scores,
    membership,
)
from robustprune.measure.minimal_perturbation import minimal_summary, nearest_adversarial
from robustprune.measure.ood import Detection, detection, surrogates
from robustprune.measure.paired import OnExamples, OnScores
from robustprune.measure.quantised import QuantisedOutcome, robust_accuracy_quantised
from robustprune.measure.repetition import distinct, repetition
from robustprune.measure.shift import SEVERITIES, Shifted, corrupt, corruption_names, shifted
from robustprune.measure.statistics import (
    Proportion,
    Spread,
    expected_proportion,
    mean_sd,
    proportion,
)
from robustprune.measure.summaries import Summary, judge_summaries, rouge_l
from robustprune.measure.switch import SwitchOutcome, evaluate_switch
from robustprune.measure.trust import Trust, compare_trust
from robustprune.measure.trust_causal import TextTokens, compare_trust_causal

__all__ = [
    "MORE",
    "SEVERITIES",
    "Brittleness",
    "Calibration",
    "Change",
    "Choice",
    "Choices",
    "Continuations",
    "Cost",
    "Detection",
    "Disagreement",
    "Fairness",
    "Flips",
    "Leakage",
    "Membership",
    "OnExamples",
    "OnScores",
    "Outcome",
    "PairedAuroc",
    "PairedTest",
    "Proportion",
    "QuantisedOutcome",
    "Question",
    "Ranking",
    "Secrets",
    "Shifted",
    "Spread",
    "Summary",
    "SwitchOutcome",
    "TaskFigure",
    "TextTokens",
    "Trust",
    "accuracy_curve",
    "attack_set",
    "attacked_calibration",
    "auroc",
    "average_ranks",
    "backdoor_success",
    "bootstrap_interval",
    "brittleness",
    "calibration",
    "calibration_of",
    "changes",
    "choose_by_cross_validation",
    "cloze_questions",
    "compare_cost",
    "compare_trust",
    "compare_trust_causal",
    "constant_answer",
    "corrupt",
    "corruption_names",
    "detection",
    "disagreement",
    "distinct",
    "evaluate",
    "evaluate_switch",
    "exact_difference",
    "expected_proportion",
    "fairness",
    "fairness_of",
    "greedy_continuations",
    "groups",
    "harness_tasks",
    "holm",
    "judge_continuations",
    "judge_secrets",
    "judge_summaries",
    "leakage",
    "likelihood_ratio",
    "likelihood_ratio_scores",
    "mcnemar",
    "mean_sd",
    "membership",
    "minimal_summary",
    "multiple_choice",
    "nearest_adversarial",
    "paired_auroc",
    "paired_bootstrap",
    "paired_wilcoxon",
    "poison",
    "proportion",
    "repetition",
    "robust_accuracy_quantised",
    "rouge_l",
    "shifted",
    "stamp",
    "stratified_folds",
    "surrogates",
    "worst_examples",
]
