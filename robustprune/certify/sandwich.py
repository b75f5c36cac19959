"""Lower bounds below, upper bounds above: certified radius ≤ r* ≤ distance an attack reached."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: how many offending examples a message names
_NAMED = 10


class SandwichViolation(ValueError):
    """A certified radius beyond an adversarial example: the proof or the attack has a fault."""


@dataclass(frozen=True)
class AccuracyInterval:
    """Robust accuracy at eps: at least `certified`, at most `attacked`, as fractions of n."""

    eps: float
    certified: float
    attacked: float
    n: int


def check_sandwich(lower: Tensor, upper: Tensor, *, tolerance: float = 1e-6) -> None:
    """Check lower_i ≤ upper_i for every example; both must bound r* of the same classifier in the
    same norm.

    Args:
        lower: (N,) certified radii, finite.
        upper: (N,) distances of adversarial examples; ∞ where none was found, 0 where x itself is
            misclassified.
        tolerance: relative excess that is let through: the distance of two float32 inputs is
            itself only known to about 1e-7.

    Raises:
        SandwichViolation: with the indices of the examples, the worst first.
        ValueError: shapes that differ, NaN, a negative value, an infinite lower bound.
    """
    lower, upper = _checked(lower, upper)
    excess = lower - upper * (1 + tolerance)
    wrong = (excess > 0).nonzero().flatten()
    if len(wrong) == 0:
        return
    ranked = wrong[excess[wrong].argsort(descending=True)].tolist()
    named = ", ".join(
        f"{i} (certified {float(lower[i]):.6g}, attacked at {float(upper[i]):.6g})"
        for i in ranked[:_NAMED]
    )
    more = f" and {len(ranked) - _NAMED} more" if len(ranked) > _NAMED else ""
    raise SandwichViolation(
        f"{len(ranked)} of {len(lower)} certified radii lie beyond an adversarial example, so a "
        f"bound is unsound or the two speak of different networks: examples {named}{more}"
    )


def robust_accuracy_interval(lower: Tensor, upper: Tensor, eps: float) -> AccuracyInterval:
    """Share of examples certified beyond eps, and share that no attack broke within it.

    An example counts as certified where lower > eps and as broken where upper ≤ eps, so the true
    robust accuracy on the N examples lies between the two.

    Args:
        lower, upper: as for `check_sandwich`, which is called.
        eps: radius, input units; 0 gives the clean accuracy as the upper end.

    Raises:
        SandwichViolation, ValueError: as `check_sandwich`; no examples; eps below 0.
    """
    check_sandwich(lower, upper)
    if len(lower) == 0:
        raise ValueError("an accuracy needs at least one example, got none")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps={eps} must be finite and at least 0, in input units")
    lower, upper = _checked(lower, upper)
    # rounding alone may put a certified radius above the attack's distance: attacks decide then
    attacked = upper > eps
    certified = (lower > eps) & attacked
    n = len(lower)
    return AccuracyInterval(eps, int(certified.sum()) / n, int(attacked.sum()) / n, n)


def _checked(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    if lower.dim() != 1 or lower.shape != upper.shape:
        raise ValueError(
            f"lower of shape {tuple(lower.shape)} and upper of shape {tuple(upper.shape)} must "
            "both be (N,)"
        )
    lower, upper = lower.double().cpu(), upper.double().cpu()
    if not bool((torch.isfinite(lower) & (lower >= 0)).all()):
        raise ValueError("every lower bound must be finite and at least 0")
    if not bool((upper >= 0).all()):
        raise ValueError("every upper bound must be at least 0, or infinite, and not NaN")
    return lower, upper
