"""Sections of the page of `robustprune trust` for measures that are asked for by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from robustprune.measure.change import Change


@dataclass(frozen=True)
class Section:
    """One of these measures.

    Attributes:
        key: its name on the command line.
        title, text: its heading, and what was done.
        header, figures: a table of single networks.
        changes: what is compared in pairs, corrected by Holm's method within the section.
    """

    key: str
    title: str
    text: str
    header: tuple[str, ...]
    figures: tuple[tuple[str, ...], ...]
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        """Return its part of trust.json."""
        return {
            "text": self.text,
            "figures": [dict(zip(self.header, row, strict=True)) for row in self.figures],
            "changes": [
                {**asdict(one), "difference": one.difference, "verdict": one.verdict}
                for one in self.changes
            ],
        }
