"""Print text from other people's files safely on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return `text` as one line without characters that control a terminal.

    Names and messages may contain what a stranger wrote. A line break could begin a line that looks
    like ours, an escape sequence could erase or colour one, and a direction mark could reverse it.
    So every character that is not printable becomes its escape, such as ``\n`` or ``\u202e``.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(text: object, most: int = 200) -> str:
    """Return the beginning of a text, made `printable`, with at most `most` characters. A text that
    was cut ends in "..."."""
    line = printable(str(text)[: most + 1])
    return line if len(line) <= most else f"{line[: most - 3]}..."
