"""Evaluation protocols by name, so that one call reproduces the figure of a paper."""

from __future__ import annotations

from attacks.ensemble import AutoAttack
from attacks.threat import ThreatModel

_PIXELS = (0.0, 1.0)

# name -> threat model in the benchmark's input units: pixels in [0, 1], z-scores of series
THREATS = {
    "mnist-linf": ThreatModel("linf", 0.3, _PIXELS),
    "mnist-l2": ThreatModel("l2", 2.0, _PIXELS),
    "cifar10-linf": ThreatModel("linf", 8 / 255, _PIXELS),
    "cifar10-l2": ThreatModel("l2", 0.5, _PIXELS),
    "cifar10-l1": ThreatModel("l1", 12.0, _PIXELS),
    "cifar100-linf": ThreatModel("linf", 8 / 255, _PIXELS),
    "imagenet-linf": ThreatModel("linf", 4 / 255, _PIXELS),
    "ucr-linf": ThreatModel("linf", 0.1),
}


def preset(name: str, *, seed: int | None = 0, batch_size: int | None = 250) -> AutoAttack:
    """Return AutoAttack-standard under the threat model that RobustBench uses for a data set.

    ``preset("cifar10-linf").evaluate(model, x, y).robust_accuracy`` is the figure that papers call
    "AA". The model takes pixels in [0, 1] and normalises them itself.

    Raises:
        ValueError: the name is not a key of ``THREATS``.
    """
    if name not in THREATS:
        raise ValueError(f"preset {name!r} is not known; choose one of {', '.join(THREATS)}")
    return AutoAttack(THREATS[name], seed=seed, batch_size=batch_size)
