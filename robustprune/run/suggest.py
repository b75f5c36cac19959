"""The name that a mistyped one probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the allowed name nearest to `name`, or "" if none is near."""
    by_lower = {candidate.lower(): candidate for candidate in allowed}
    near = get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean '{by_lower[near[0]]}'?)" if near else ""
