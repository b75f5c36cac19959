"""Choose the adversarial examples to train on, where training data are few."""

from robustprune.selection.boundary import BoundaryDistance, boundary_weights, steps_to_break
from robustprune.selection.controls import HighestLoss, Random
from robustprune.selection.features import last_linear, penultimate_features
from robustprune.selection.knn_shapley import KnnShapley, knn_shapley
from robustprune.selection.last_layer import last_layer_utility
from robustprune.selection.monte_carlo import DataShapley, ShapleyEstimate, monte_carlo_shapley
from robustprune.selection.pool import Examples, Method, Pool
from robustprune.selection.select import Selection, select_adversarial_examples
from robustprune.selection.selective import Choose, Indexed, Selective
from robustprune.selection.tracin import TracIn, tracin

__all__ = [
    "BoundaryDistance",
    "Choose",
    "DataShapley",
    "Examples",
    "HighestLoss",
    "Indexed",
    "KnnShapley",
    "Method",
    "Pool",
    "Random",
    "Selection",
    "Selective",
    "ShapleyEstimate",
    "TracIn",
    "boundary_weights",
    "knn_shapley",
    "last_layer_utility",
    "last_linear",
    "monte_carlo_shapley",
    "penultimate_features",
    "select_adversarial_examples",
    "steps_to_break",
    "tracin",
]
