"""Compare lower and upper bounds: certified radius ≤ r* ≤ distance that an attack reached."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: the largest number of wrong examples that a message names
_NAMED = 10


class SandwichViolation(ValueError):
    """A certified radius lies beyond an adversarial example, so the proof or the attack is
    wrong."""


@dataclass(frozen=True)
class AccuracyInterval:
    """Robust accuracy at eps is at least `certified` and at most `attacked`, as fractions of n."""

    eps: float
    certified: float
    attacked: float
    n: int


def check_sandwich(lower: Tensor, upper: Tensor, *, tolerance: float = 1e-6) -> None:
    """Check that lower_i ≤ upper_i for every example.

    Both must bound r* of the same classifier in the same norm.

    Args:
        lower: (N,), the certified radii, finite.
        upper: (N,), the distances of adversarial examples; ∞ if none was found, 0 if x itself is
            misclassified.
        tolerance: the relative excess that is allowed, because rounding limits the distance of two
            float32 inputs to about 1e-7.

    Raises:
        SandwichViolation: a bound is violated; the message has the indices of the examples, the
            worst first.
        ValueError: shapes differ, or a value is NaN or negative, or a lower bound is infinite.
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
    """Return the share of examples certified beyond eps, and the share not broken within it.

    An example is certified if lower > eps and broken if upper ≤ eps. So the true robust accuracy on
    the N examples lies between the two shares.

    Args:
        lower, upper: as in `check_sandwich`, which is called.
        eps: the radius in input units; 0 gives the clean accuracy as the upper share.

    Raises:
        SandwichViolation, ValueError: as in `check_sandwich`; or there are no examples, or eps is
            below 0.
    """
    check_sandwich(lower, upper)
    if len(lower) == 0:
        raise ValueError("an accuracy needs at least one example, got none")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps={eps} must be finite and at least 0, in input units")
    lower, upper = _checked(lower, upper)
    # rounding may put a certified radius above the attack's distance: then the attack decides
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
