"""Repeat what foreign code said, in one line."""

from __future__ import annotations

from collections.abc import Sequence

#: the largest numbers of names in an error, and of characters of another message that it repeats
NAMED, ECHO = 4, 200


def few(names: Sequence[str]) -> str:
    """List the first names, and say how many more there are."""
    more = f", ... {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(name[:60] for name in names[:NAMED]) + more


def said(error: BaseException) -> str:
    """Return what an error says, in one line, with its kind where its words need it."""
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, ImportError | ValueError) and text else type(error).__name__
    text = f"{kind}: {text}" if kind and text else kind or text
    return text if len(text) <= ECHO else f"{text[:ECHO]}..."
