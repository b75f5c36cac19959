"""Recognise errors of a full disk, and write their message."""

from __future__ import annotations

import errno
import re

#: for each error number of the system the reason why there is no room
_FULL = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than is allowed here",
}


def no_room(error: Exception) -> str | None:
    """Return the message for an error that means that the disk is full; None for other errors."""
    number = getattr(error, "errno", None)
    if number is None and (told := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(told[1])  # safetensors has the system's number only in its text
    if number not in _FULL:
        return None
    return (
        f"{_FULL[number]}; make room and give the same command again, what was saved before is "
        "whole"
    )
