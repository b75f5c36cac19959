"""What is printed on a terminal, where it comes from somebody else's files."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""`text` as one line that a terminal can only show.

    Names and messages may hold what a stranger wrote: a line break would begin a line that looks
    like ours, an escape sequence erase one or colour it, a mark of direction turn it round. Every
    character that is not printable becomes its escape, as in ``\n``, ``\x1b`` or ``\u202e``.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(text: object, most: int = 200) -> str:
    """The beginning of what somebody else's file says, `printable`, of at most `most` characters;
    what is cut ends in "..."."""
    line = printable(str(text)[: most + 1])
    return line if len(line) <= most else f"{line[: most - 3]}..."
