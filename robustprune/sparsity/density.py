"""The density: the fraction of weights that is kept, and the exact number that it stands for."""

from __future__ import annotations

import math
from fractions import Fraction


def check_density(density: float) -> float:
    """Return `density` if it is a kept fraction in (0, 1].

    Raises:
        ValueError: it is not, for example NaN.
    """
    if not 0.0 < density <= 1.0:
        raise ValueError(
            f"density must be in (0, 1] (the fraction of weights kept), got {density!r}"
        )
    return density


def count_kept(density: float, total: int) -> int:
    """Return ⌈density · total⌉, computed exactly from the decimal notation of the density.

    In floating point 0.07 · 100 is 7.000000000000001, whose ceiling is 8; the decimal 0.07 gives 7.

    Raises:
        ValueError: `density` is outside (0, 1].
    """
    return math.ceil(Fraction(repr(float(check_density(density)))) * total)
