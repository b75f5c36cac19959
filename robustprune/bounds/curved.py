"""Nonlinearities with curves, as operations of a ``Program``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robustprune.bounds import formulas
from robustprune.bounds.curves import Curve
from robustprune.bounds.layers import relu
from robustprune.bounds.program import Program, Value
from robustprune.bounds.tensors import Unsupported


def plain(make: Callable[[], Curve]) -> Callable[..., Value]:
    """Return the function of a curve without options."""

    def function(p: Program, input: Value, inplace: bool = False) -> Value:
        return p.add(make(), input)

    return function


def gelu(p: Program, input: Value, approximate: str = "none") -> Value:
    return p.add(formulas.gelu(approximate), input)


def elu(p: Program, input: Value, alpha: float = 1.0, inplace: bool = False) -> Value:
    if not alpha > 0:
        raise Unsupported(f"an ELU with alpha={alpha}; it must be positive")
    return p.add(formulas.elu(float(alpha)), input)


def clamp(p: Program, input: Value, min: Any = None, max: Any = None) -> Value:
    limits = [
        default if v is None else v for v, default in ((min, -float("inf")), (max, float("inf")))
    ]
    if not all(isinstance(v, int | float) for v in limits):
        raise Unsupported("limits that are tensors; only numbers have bounds")
    low, high = (float(v) for v in limits)
    if not low <= high:
        raise Unsupported(f"limits {low} and {high}; the first must not be above the second")
    return (
        relu(p, input)
        if (low, high) == (0.0, float("inf"))
        else p.add(formulas.clip(low, high), input)
    )


def clamp_min(p: Program, input: Value, min: Any) -> Value:
    return clamp(p, input, min)


def clamp_max(p: Program, input: Value, max: Any) -> Value:
    return clamp(p, input, None, max)


def hardtanh(
    p: Program,
    input: Value,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> Value:
    return clamp(p, input, min_val, max_val)


def relu6(p: Program, input: Value, inplace: bool = False) -> Value:
    return clamp(p, input, 0, 6)
