"""The name that a mistyped one probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the allowed name nearest to `name`, or "" if none is near."""
    plain = {_plain(candidate): candidate for candidate in allowed}
    near = get_close_matches(_plain(name), plain, n=1)
    return f" (did you mean '{plain[near[0]]}'?)" if near else ""


def _plain(name: str) -> str:
    """Without case, and without the dashes that would make any two options alike."""
    return name.lower().lstrip("-")
