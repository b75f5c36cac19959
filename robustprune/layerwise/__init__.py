"""Pruning without training: each layer is a least-squares problem, which many solvers solve."""

from robustprune.layerwise.autoencoder import Autoencoder, sparse_autoencoder
from robustprune.layerwise.checks import FewExamples
from robustprune.layerwise.problem import LayerProblem, Solution
from robustprune.layerwise.prune import prune_layerwise
from robustprune.layerwise.ratios import Owl
from robustprune.layerwise.set_difference import set_difference
from robustprune.layerwise.solvers import SOLVERS
from robustprune.layerwise.targets import TARGETS, TargetName

__all__ = [
    "SOLVERS",
    "TARGETS",
    "Autoencoder",
    "FewExamples",
    "LayerProblem",
    "Owl",
    "Solution",
    "TargetName",
    "prune_layerwise",
    "set_difference",
    "sparse_autoencoder",
]
