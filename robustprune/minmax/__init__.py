"""What is learned, and how: outer objectives and one training loop for every method."""

from robustprune.minmax.constraint import Constraint
from robustprune.minmax.objectives import Adversarial, Natural, Objective, StepResult
from robustprune.minmax.optimizers import OptimizerSpec
from robustprune.minmax.resume import Checkpoint, EpochRecord
from robustprune.minmax.train import Batches, TrainingDiverged, Validation, train

__all__ = [
    "Adversarial",
    "Batches",
    "Checkpoint",
    "Constraint",
    "EpochRecord",
    "Natural",
    "Objective",
    "OptimizerSpec",
    "StepResult",
    "TrainingDiverged",
    "Validation",
    "train",
]
