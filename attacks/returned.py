"""What an attack returned: checked, and brought into its threat model.

An attack of somebody else is judged by the points that it returns, and those may lie anywhere: a
point outside the ball would count as a success, and one that holds NaN as what argmax makes of it.
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
    """The threat model that an attack keeps to, or None where it names none in ``threat``."""
    threat = getattr(attack, "threat", None)
    return threat if isinstance(threat, ThreatModel) else None


def for_examples(attack: Attack, x: Tensor, rows: Tensor) -> Attack:
    """The attack as it is for the examples x[rows] alone: of one radius an example, theirs.

    Raises:
        ValueError: there are not as many radii as examples in x.
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
    """Raise ValueError where an attack has one radius an example, and not as many as x."""
    for_examples(attack, x, torch.zeros(0, dtype=torch.int64, device=x.device))


def attacked(
    attack: Attack, model: Model, x: Tensor, y: Tensor, *, threat: ThreatModel | None = None
) -> Tensor:
    """Run an attack and return what it found as one may count it: like x, finite, in the ball.

    Args:
        threat: what is allowed; None for what the attack itself says.  Where neither says
            anything, as for an attack that looks for the nearest example, distances stay unchecked.

    Raises:
        ValueError: it returned something else than a tensor like x, or NaN or infinity.
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
            f"{len(x)} examples; that is no input"
        )
    own = threat_of(attack)
    if isinstance(attack, Configured) and (threat is None or threat is own):
        return found  # ours end with that projection
    kept = own if threat is None else threat
    return found if kept is None else kept.project(x, found)
