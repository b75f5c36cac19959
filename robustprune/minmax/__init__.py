"""Train networks: objectives that say what is minimised, and one training loop for all methods."""

from robustprune.minmax.batches import Batches, pair_of
from robustprune.minmax.certified import Certified, CertifiedMethod
from robustprune.minmax.constraint import Callback, Constraint, Learned
from robustprune.minmax.dense import forget, masks_of, set_masks
from robustprune.minmax.distil import Ard, Iad, Rslad
from robustprune.minmax.fingerprint import known_by_its_call
from robustprune.minmax.free import Free, Repeated
from robustprune.minmax.freelb import FreeLB
from robustprune.minmax.history import EpochRecord, History, Tracker, log_epochs
from robustprune.minmax.objectives import (
    Adversarial,
    Gaussian,
    Mart,
    Natural,
    OnAttacked,
    Trades,
)
from robustprune.minmax.optimizers import OptimizerLike, OptimizerSpec, TorchOptimizer
from robustprune.minmax.options import LoopOptions, Validation
from robustprune.minmax.result import Objective, StepResult, tally
from robustprune.minmax.resume import Checkpoint
from robustprune.minmax.sharpness import Awp
from robustprune.minmax.steps import TrainingDiverged
from robustprune.minmax.train import train

__all__ = [
    "Adversarial",
    "Ard",
    "Awp",
    "Batches",
    "Callback",
    "Certified",
    "CertifiedMethod",
    "Checkpoint",
    "Constraint",
    "EpochRecord",
    "Free",
    "FreeLB",
    "Gaussian",
    "History",
    "Iad",
    "Learned",
    "LoopOptions",
    "Mart",
    "Natural",
    "Objective",
    "OnAttacked",
    "OptimizerLike",
    "OptimizerSpec",
    "Repeated",
    "Rslad",
    "StepResult",
    "TorchOptimizer",
    "Tracker",
    "Trades",
    "TrainingDiverged",
    "Validation",
    "forget",
    "known_by_its_call",
    "log_epochs",
    "masks_of",
    "pair_of",
    "set_masks",
    "tally",
    "train",
]
