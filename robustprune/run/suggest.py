"""The name that a mistyped one probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches

#: characters of a mistyped name that are compared; comparing takes a time that grows with them
LONGEST = 200


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the allowed name nearest to `name`, or "" if none is near."""
    near = nearest(name, allowed)
    return f" (did you mean '{near}'?)" if near else ""


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name nearest to `name`, or None if none is near."""
    plain = {_plain(candidate): candidate for candidate in allowed}
    near = get_close_matches(_plain(name)[:LONGEST], plain, n=1)
    return plain[near[0]] if near else None


def _plain(name: str) -> str:
    """Without case, and without the dashes that would make any two options alike."""
    return name.lower().lstrip("-")
