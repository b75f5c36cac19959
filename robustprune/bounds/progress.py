"""How far a long computation of bounds has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

#: is told the share of the work that is done, from 0 to 1, rising
OnProgress = Callable[[float], None]


class Progress(NamedTuple):
    """A stretch of the work; where it ends somebody is told, if there is anyone.

    Attributes:
        tell: gets the share of all work that is done.
        begin, end: of the stretch, as shares of all work.
    """

    tell: OnProgress | None = None
    begin: float = 0.0
    end: float = 1.0

    def part(self, begin: float, end: float) -> Progress:
        """A stretch of this stretch, as shares of it."""
        length = self.end - self.begin
        return Progress(self.tell, self.begin + begin * length, self.begin + end * length)

    def step(self, number: int, count: int) -> Progress:
        """One of so many stretches of equal length."""
        return self.part(number / count, (number + 1) / count)

    def done(self) -> None:
        """Tell that the stretch is behind."""
        if self.tell is not None:
            self.tell(self.end)


UNTOLD = Progress()
