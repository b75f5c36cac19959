"""Report the progress of a long computation of bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

#: a function that is called with the share of the work that is done, rising from 0 to 1
OnProgress = Callable[[float], None]


class Progress(NamedTuple):
    """A part of the work. When it is done, the callback is called if there is one.

    Attributes:
        tell: the callback, which gets the share of all work that is done.
        begin, end: the limits of this part, as shares of all work.
    """

    tell: OnProgress | None = None
    begin: float = 0.0
    end: float = 1.0

    def part(self, begin: float, end: float) -> Progress:
        """Return a part of this part; the limits are shares of it."""
        length = self.end - self.begin
        return Progress(self.tell, self.begin + begin * length, self.begin + end * length)

    def step(self, number: int, count: int) -> Progress:
        """Return one of `count` parts of equal length."""
        return self.part(number / count, (number + 1) / count)

    def done(self) -> None:
        """Report that this part is done."""
        if self.tell is not None:
            self.tell(self.end)


UNTOLD = Progress()
