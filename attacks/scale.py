"""Run the same attack in a larger or smaller ball."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attacks.geometry import brief
from attacks.gradient import Attack
from attacks.threat import ThreatModel


def scaled(attack: Attack, factor: float) -> Attack:
    """Return ``attack`` with eps and its steps multiplied by ``factor``; all else is unchanged.

    Raises:
        ValueError: the attack has no ``threat``, so that its eps cannot be changed.
    """
    if factor == 1.0:
        return attack
    config: Any = attack  # the protocol ``Attack`` has no fields
    threat = vars(config).get("threat") if hasattr(config, "__dict__") else None
    if not isinstance(threat, ThreatModel):
        raise ValueError(
            f"{brief(attack)} has no threat model whose eps could be scaled by {factor:g}"
        )
    changes: dict[str, Any] = {"threat": replace(threat, eps=threat.eps * factor)}
    if getattr(config, "step_size", None) is not None:
        changes["step_size"] = config.step_size * factor
    scaled_attack: Attack = replace(config, **changes)
    return scaled_attack
