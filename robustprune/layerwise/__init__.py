"""Pruning without training: one least-squares problem a layer, many solvers."""

from robustprune.layerwise.checks import FewExamples
from robustprune.layerwise.problem import LayerProblem, Solution
from robustprune.layerwise.prune import prune_layerwise
from robustprune.layerwise.ratios import Owl
from robustprune.layerwise.solvers import SOLVERS
from robustprune.layerwise.targets import TARGETS, TargetName

__all__ = [
    "SOLVERS",
    "TARGETS",
    "FewExamples",
    "LayerProblem",
    "Owl",
    "Solution",
    "TargetName",
    "prune_layerwise",
]
