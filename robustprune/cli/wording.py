"""How an error of the command line is worded: one line, and little of what others wrote."""

from __future__ import annotations

from collections.abc import Sequence

from robustprune.run.terminal import printable

#: characters of a word of the user's, or of a file, that an error repeats
ECHO = 200
#: characters of a whole error
_LONGEST = 1500


def short(text: str, most: int = ECHO) -> str:
    """A text of at most `most` characters: its beginning and its end."""
    if len(text) <= most:
        return text
    return f"{text[: most - 63]}...{text[-60:]}"


def echo(text: str) -> str:
    """A word of the user's in quotes, shortened."""
    return repr(short(text))


def one_line(message: str, *, foreign: Sequence[str] = ()) -> str:
    """A message on one line that a terminal can only show.

    Args:
        foreign: words that others wrote and that the message may repeat; long ones are shortened.
    """
    for word in foreign:
        if len(word) > ECHO:
            message = message.replace(word, short(word)).replace(repr(word), repr(short(word)))
    words = printable(" ".join(map(short, message.split())))
    return short(words, _LONGEST)
