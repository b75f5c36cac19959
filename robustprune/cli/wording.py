"""Write errors of the command line: one line, with little of what others wrote."""

from __future__ import annotations

from collections.abc import Sequence

from robustprune.run.terminal import printable

#: the largest number of characters of a word that an error repeats
ECHO = 200
#: the largest number of characters of a whole error
_LONGEST = 1500


def short(text: str, most: int = ECHO) -> str:
    """Shorten a text to at most `most` characters: its beginning and its end."""
    if len(text) <= most:
        return text
    return f"{text[: most - 63]}...{text[-60:]}"


def echo(text: str) -> str:
    """Return a word of the user in quotes, shortened."""
    return repr(short(text))


def one_line(message: str, *, foreign: Sequence[str] = ()) -> str:
    """Return a message as one line without control characters.

    Args:
        foreign: words that others wrote and that the message may repeat; long ones are shortened.
    """
    for word in foreign:
        if len(word) > ECHO:
            message = message.replace(word, short(word)).replace(repr(word), repr(short(word)))
    words = printable(" ".join(map(short, message.split())))
    return short(words, _LONGEST)
