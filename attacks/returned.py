"""Check what an attack returned, and project it on its threat model.

An attack of another author is judged by the points that it returns, which may be anywhere: a point
outside the ball would count as a success, and a point with NaN might count as one.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attacks.geometry import brief
from attacks.gradient import Attack
from attacks.inputs import Configured
from attacks.network import Model
from attacks.threat import ThreatModel


def threat_of(attack: Attack) -> ThreatModel | None:
    """Return the threat model in the attack's attribute ``threat``, or None if there is none."""
    threat = getattr(attack, "threat", None)
    return threat if isinstance(threat, ThreatModel) else None


def for_examples(attack: Attack, x: Tensor, rows: Tensor) -> Attack:
    """Return the attack for the examples x[rows]: radii that are given per example are selected.

    Raises:
        ValueError: the number of radii differs from the number of examples in x.
    """
    config: Any = attack
    changes: dict[str, Any] = {}
    for field in fields(config) if is_dataclass(config) else ():
        value = getattr(config, field.name)
        if isinstance(value, ThreatModel) and isinstance(value.fitting(x), Tensor):
            changes[field.name] = value.select(rows)
        elif field.name == "attack":
            changes[field.name] = for_examples(value, x, rows)
        elif field.name == "attacks":
            changes[field.name] = tuple(for_examples(one, x, rows) for one in value)
    return replace(config, **changes) if changes else attack


def check_radii(attack: Attack, x: Tensor) -> None:
    """Raise ValueError where an attack's number of radii differs from the number of examples."""
    for_examples(attack, x, torch.zeros(0, dtype=torch.int64, device=x.device))


def attacked(
    attack: Attack, model: Model, x: Tensor, y: Tensor, *, threat: ThreatModel | None = None
) -> Tensor:
    """Run an attack; return its points, checked to be finite and projected on the threat model.

    Args:
        threat: the allowed set; None for the threat model of the attack. If there is neither, as
            for an attack that searches for the nearest example, distances are not checked.

    Raises:
        ValueError: the attack did not return a tensor in the shape of x, or returned NaN or
            infinity.
    """
    found = attack(model, x, y)
    if not isinstance(found, Tensor) or found.shape != x.shape:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"the attack {brief(attack)} returned {what} for inputs of shape {tuple(x.shape)}; it "
            "must return a tensor like x"
        )
    found = found.detach().to(x)
    if found.is_inference():
        found = found.clone()
    bad = ~found.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        raise ValueError(
            f"the attack {brief(attack)} returned NaN or infinity for {int(bad.sum())} of "
            f"{len(x)} examples; that is no valid input"
        )
    own = threat_of(attack)
    if isinstance(attack, Configured) and (threat is None or threat is own):
        return found  # our attacks end with this projection
    kept = own if threat is None else threat
    return found if kept is None else kept.project(x, found)
