"""Measure the distance r* to the nearest adversarial example in batches, and summarise it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attacks import Attack, MinimalPerturbation, Model, ThreatModel, minimal_perturbation
from attacks.minimal import default_attacks
from robustprune.run.progress import progress
from robustprune.run.runtime import merged, own_batches

#: the quantiles in a summary, by their names
_QUANTILES = {"q25": 0.25, "median": 0.5, "q75": 0.75}


def nearest_adversarial(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    attacks: Sequence[Attack] | None = None,
    batch_size: int,
    title: str = "r*",
    quiet: bool = True,
) -> MinimalPerturbation:
    """Run `attacks.minimal_perturbation` in batches, in the threat model's norm and bounds.

    Several ranks share the batches; each rank gets the whole result.

    Args:
        x: (N, ...), N at least 1; y: (N,).
        attacks: the attacks; None for `attacks.minimal.default_attacks`.

    Raises:
        ValueError: as in `attacks.minimal_perturbation`.
    """
    r, x_adv = x.new_zeros(len(x)), torch.zeros_like(x)
    batches = own_batches(len(x), batch_size)
    for rows in progress(batches, title=title, unit="batch", quiet=quiet):
        found = minimal_perturbation(
            model,
            x[rows],
            y[rows],
            norm=threat.norm,
            bounds=threat.bounds,
            support=threat.support,
            attacks=attacks,
        )
        r, x_adv = r.to(found.r), x_adv.to(found.x_adv)
        r[rows], x_adv[rows] = found.r, found.x_adv
    return MinimalPerturbation(merged(r), merged(x_adv), threat.norm)


def minimal_summary(found: MinimalPerturbation, threat: ThreatModel) -> dict[str, Any]:
    """Return the entry of metrics.json on r*. Its figures are upper bounds, which can only fall.

    A misclassified example counts with r = 0. A quantile that no attack reached is null.
    """
    quantiles = {name: found.quantile(q) for name, q in _QUANTILES.items()}
    return {
        "norm": found.norm,
        "attacks": [
            repr(attack) for attack in default_attacks(threat.norm, threat.bounds, threat.support)
        ],
        "n": len(found.r),
        "success_rate": found.success_rate,
        "mean": _finite(found.mean),
        **{name: _finite(value) for name, value in quantiles.items()},
        "accuracy_at_eps": found.accuracy_at(float(threat.eps)),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
