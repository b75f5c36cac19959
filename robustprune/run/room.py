"""What to say where the disk is full."""

from __future__ import annotations

import errno
import re

#: what a write says that found no room, by the system's number of the error
_FULL = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than is allowed here",
}


def no_room(error: Exception) -> str | None:
    """What to say of an error that means that the disk is full; None for any other."""
    number = getattr(error, "errno", None)
    if number is None and (told := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(told[1])  # safetensors gives the system's number only in its text
    if number not in _FULL:
        return None
    return (
        f"{_FULL[number]}; make room and give the same command again, what was saved before is "
        "whole"
    )
