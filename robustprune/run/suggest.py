"""Suggest the name that a mistyped one probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches

#: the number of characters of a mistyped name that are compared; more would take too long
LONGEST = 200


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the nearest allowed name, or "" if none is near."""
    near = nearest(name, allowed)
    return f" (did you mean '{near}'?)" if near else ""


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name nearest to `name`, or None if none is near."""
    plain = {_plain(candidate): candidate for candidate in allowed}
    near = get_close_matches(_plain(name)[:LONGEST], plain, n=1)
    return plain[near[0]] if near else None


def _plain(name: str) -> str:
    """Return a name in lower case and without the dashes, which would make all options similar."""
    return name.lower().lstrip("-")
