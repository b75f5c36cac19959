"""Show the progress of a long task: as a bar on a terminal, or as lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

#: seconds between two lines in a log
LOG_EVERY = 30.0
#: the least number of seconds between two lines where a part of the task, such as an epoch, ends
PART_EVERY = 5.0


class Progress:
    """Count the units of a task that are done, and report them on stderr.

    On a terminal it is a bar, which disappears at the end. Elsewhere a bar would fill a file with
    control characters, so a plain line is written every 30 seconds: "measuring dense: 12 of 40
    batches, 1 min 30 s". At the end of a part, such as an epoch, a line is written if the last one
    is five seconds old. A task that takes less time writes nothing there.

    Args:
        total: the number of all units, or None if it is not known.
        done: the number of units that an earlier attempt has done.
        unit: the name of one unit, such as "batch".
        quiet: whether nothing is reported.
    """

    def __init__(
        self, total: int | None, *, title: str, unit: str, quiet: bool, done: int = 0
    ) -> None:
        self.total, self.title, self.unit, self.done = total, title, unit, done
        self.quiet = quiet
        self.figures: Mapping[str, str] = {}
        live = not quiet and sys.stderr.isatty()
        self.bar: tqdm[Any] | None = None
        if live:
            self.bar = tqdm(
                total=total, initial=done, desc=title, unit=unit, dynamic_ncols=True, leave=False
            )
        self.start = self.last = time.monotonic()

    def update(self, units: int = 1) -> None:
        """Count this number of further units."""
        self.done += units
        if self.bar is not None:
            self.bar.update(units)
        else:
            self._log(LOG_EVERY)

    def end_part(self) -> None:
        """Say that a part of the task is done, such as an epoch."""
        if self.bar is None:
            self._log(PART_EVERY)

    def describe(self, title: str, figures: Mapping[str, str]) -> None:
        """Set the title and the figures of the bar or of the next line."""
        self.title, self.figures = title, figures
        if self.bar is not None:
            self.bar.set_description(title, refresh=True)
            self.bar.set_postfix(figures, refresh=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def _log(self, least: float) -> None:
        if not self.quiet and time.monotonic() - self.last >= least:
            self.last = time.monotonic()
            print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        of = "" if self.total is None else f" of {self.total:,}"
        minutes, seconds = divmod(round(self.last - self.start), 60)
        took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        figures = "".join(f", {name} {value}" for name, value in self.figures.items())
        return f"{self.title}: {self.done:,}{of} {plural(self.unit)}, {took}{figures}"


def progress(items: Sequence[T], *, title: str, unit: str, quiet: bool) -> Iterator[T]:
    """Yield `items` one after another, and count each when the next one is requested."""
    with Progress(len(items), title=title, unit=unit, quiet=quiet) as told:
        for item in items:
            yield item
            told.update()


def plural(unit: str) -> str:
    """Return the plural of a unit: batch -> batches, step -> steps."""
    return f"{unit}es" if unit.endswith(("s", "x", "ch", "sh")) else f"{unit}s"


def duration(seconds: float) -> str:
    """Write a time as 0.4 s, 12 s, 3.5 min, 2.1 h or 4.2 days."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"
