"""The style of plots, and their conversion to SVG text that is the same every time."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustprune.run.checkpoint import write_atomically

INK = "#1b2430"
FAINT = "#dde1e7"
PAPER = "#ffffff"

# Colour-blind readers can distinguish them; dashes and markers differ, too, for prints in grey.
# Each hex value is also a CSS variable of the page, which brightens it on a dark screen.
SERIES_COLOURS = (
    "#69707c",
    "#0072b2",
    "#d55e00",
    "#008060",
    "#a3459b",
    "#9a6b00",
    "#2f9fd0",
    "#5a3fc0",
)
_DASHES = ((4, 1.5), (6, 1.5, 1, 1.5), (), (2, 1), (1, 1), (8, 2), (5, 1, 1, 1, 1, 1), (3, 3))
_MARKERS = ("s", "D", "o", "^", "v", "P", "X", "*")


@dataclass(frozen=True)
class Look:
    """The colour, dash pattern and marker of one line."""

    colour: str
    dashes: tuple[float, ...]
    marker: str

    def line(self) -> dict[str, Any]:
        """Return keyword arguments for a matplotlib line."""
        linestyle = (0, self.dashes) if self.dashes else "-"
        return {"color": self.colour, "linestyle": linestyle, "marker": self.marker}


@dataclass(frozen=True)
class Plot:
    """A finished figure: the stem of its file name, a standalone SVG, and a text for blind
    readers."""

    key: str
    svg: str
    alt: str

    def _repr_html_(self) -> str:
        return inline(self)


@dataclass(frozen=True)
class Gallery:
    """Several plots, which a notebook shows one beside the other."""

    plots: tuple[Plot, ...]

    def save(self, folder: Path | str) -> list[Path]:
        """Write each plot as an SVG file into a folder, which is made if there is none."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        return [write_atomically(Path(folder) / f"{plot.key}.svg", plot.svg) for plot in self.plots]

    def __repr__(self) -> str:
        return f"Gallery({', '.join(plot.key for plot in self.plots)})"

    def _repr_html_(self) -> str:
        cells = "".join(f"<div>{inline(plot)}</div>" for plot in self.plots)
        return f'<div style="display: flex; flex-wrap: wrap; background: {PAPER}">{cells}</div>'


def looks(names: Sequence[str]) -> Mapping[str, Look]:
    """Return a look for each different name, in order of first appearance.

    When the colours repeat, they come with other dashes and markers.
    """
    count = len(SERIES_COLOURS)
    return {
        name: Look(
            SERIES_COLOURS[index % count],
            _DASHES[(index + index // count) % len(_DASHES)],
            _MARKERS[(index + 3 * (index // count)) % len(_MARKERS)],
        )
        for index, name in enumerate(dict.fromkeys(names))
    }


@contextmanager
def canvas(*, width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Make a figure with one pair of axes in the report's style; sizes are in inches."""
    with canvases(width=width, height=height) as (figure, (axes,)):
        yield figure, axes


@contextmanager
def canvases(
    *,
    width: float,
    height: float,
    heights: Sequence[float] = (1,),
    widths: Sequence[float] = (1,),
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Make a figure with axes in rows and columns of these relative sizes, row by row."""
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.add_gridspec(
            len(heights), len(widths), height_ratios=heights, width_ratios=widths
        )
        places = [(row, column) for row in range(len(heights)) for column in range(len(widths))]
        several = [figure.add_subplot(grid[place]) for place in places]
        for axes in several:
            axes.spines[["top", "right"]].set_visible(False)
        yield figure, several


def finish(figure: Figure, *, key: str, alt: str) -> Plot:
    """Draw the figure to SVG. Call it inside `canvas`."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Text stays text in the SVG, so glyphs that are missing in matplotlib's font don't matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=metadata)
    return Plot(key=key, svg=buffer.getvalue(), alt=alt)


def inline(plot: Plot) -> str:
    """Return the SVG for HTML, with own ids, page colours and a name for screen readers."""
    svg = plot.svg[plot.svg.index("<svg") :]
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{plot.key}-", svg)
    for colour, name in _PAGE_COLOURS.items():
        svg = svg.replace(colour, f"var(--{name}, {colour})")
    label = escape(plot.alt, quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def page_colours() -> Mapping[str, str]:
    """Return for each CSS variable its colour on light paper."""
    return {name: colour for colour, name in _PAGE_COLOURS.items()}


_PAGE_COLOURS = {
    INK: "ink",
    FAINT: "faint",
    PAPER: "paper",
    **{colour: f"series-{index}" for index, colour in enumerate(SERIES_COLOURS, start=1)},
}

# The types of the keys differ between versions of matplotlib.
_RC: dict[Any, Any] = {
    "svg.hashsalt": "robustprune",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a "$" in a user's name is a dollar sign
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "hatch.color": INK,
}
