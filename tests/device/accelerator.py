"""What the tests of the accelerator share."""

import pytest

from attacks import PGD, ThreatModel
from robustprune.minmax import OptimizerSpec
from robustprune.run.runtime import choose_device

DEVICE = choose_device()
needs_one = pytest.mark.skipif(DEVICE.type == "cpu", reason="there is no accelerator here")

LINF = ThreatModel("linf", 0.1, bounds=(0.0, 1.0))
INNER = PGD(LINF, steps=2, seed=0)
SPEC = OptimizerSpec(name="sgd", lr=0.05, weight_decay=5e-4)
