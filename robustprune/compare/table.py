"""Show a board as a table in the terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from robustprune.compare.board import Board, Measured, Row
from robustprune.compare.paired import against_best
from robustprune.report.wording import count, file_size, percent, threat_phrase
from robustprune.run.terminal import printable


@dataclass(frozen=True)
class Column:
    """A column of figures: its heading, what it bounds, and how a row's figure is written."""

    title: str
    note: str
    write: Callable[[Row], str]


def columns_of(board: Board) -> list[Column]:
    """Return the columns that have a figure in at least one row."""
    tested = dict(zip(map(id, board.rows), against_best(board).p, strict=True))

    def p(row: Row) -> str:
        value = tested.get(id(row))
        return "" if value is None else _p_value(value)

    everything = [
        Column("density", "kept", lambda row: f"{row.density:.3g}"),
        Column(
            "all",
            "kept of all parameters",
            lambda row: "" if row.whole is None else f"{row.whole:.3g}",
        ),
        Column("weights", "kept", lambda row: count(row.kept)),
        Column("clean", "%", lambda row: accuracy(row.clean)),
        Column("robust", "%, upper bound", lambda row: accuracy(row.worst)),
        Column("p", "paired test, against the most robust", p),
        Column("certified", "%, lower bound", lambda row: accuracy(row.certified)),
        Column("r*", "median, upper bound", lambda row: mean_and_sd(row.r, _like(row.r))),
        Column("size", "deployed", lambda row: _size(row.file_bytes)),
        Column("latency", "ms a batch", lambda row: mean_and_sd(row.latency, _milliseconds)),
        Column("time", "dense = 1", lambda row: mean_and_sd(row.speed, "{:.2f}".format)),
        Column("seeds", "", lambda row: str(len(row.seeds))),
    ]
    return [c for c in everything if any(c.write(row) for row in board.rows)]


def accuracy(measured: Measured | None) -> str:
    """Write 83.2 ± 0.8, or 83.0 [74.2, 89.8] for one seed; "" where nothing was measured."""
    if measured is None:
        return ""
    if measured.interval is None:
        return mean_and_sd(measured, percent)
    low, high = map(percent, measured.interval)
    return f"{percent(measured.mean)} [{low}, {high}]"


def mean_and_sd(measured: Measured | None, write: Callable[[float], str]) -> str:
    """Write mean ± sd, or the one value; "" where nothing was measured."""
    if measured is None:
        return ""
    sd = "" if measured.sd is None else f" ± {write(measured.sd)}"
    return f"{write(measured.mean)}{sd}"


def terminal_board(board: Board) -> Table:
    """Return a table for a terminal. Rows on the Pareto front have a star."""
    counts = {len(row.seeds) for row in board.rows}
    seeds = f", {max(counts)} seeds" if len(counts) == 1 and counts != {1} else ""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(printable(f"{board.task}, {threat_phrase(board.threat)}, n = {board.n}{seeds}")),
        caption=Text(
            "\n".join(line for note in _notes(board) for line in textwrap.wrap(note, _CAPTION))
        ),
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("", width=1)
    table.add_column("network", overflow="fold", min_width=12)
    said = ("seeds",) if seeds else ()
    columns = [c for c in columns_of(board) if c.title in _NARROW and c.title not in said]
    for column in columns:
        table.add_column(Text(_NARROW[column.title]), justify="right", no_wrap=True)
    front = board.front
    places = {column.title: place for place, column in enumerate(columns)}
    tested = next((column for column in columns_of(board) if column.title == "p"), None)
    for row in board.rows:
        cells = [_stacked(column.write(row)) for column in columns]
        if tested is not None and (p := tested.write(row)):  # one more column would be too wide
            cells[places["robust"]].append(f"\np {p}", "dim")
        if row.whole is not None:
            cells[places["density"]].append(f"\n{row.whole:.2g}", "dim")
        table.add_row("*" if row in front else "", Text(printable(row.title)), *cells)
    return table


#: the largest number of characters in a line of the notes
_CAPTION = 79
#: the explanation of the column p
PAIRED = (
    "p: exact paired test against the most robust row on the same examples (McNemar's test), "
    "corrected by Holm's method; overlapping intervals are no test of this"
)


def _notes(board: Board) -> list[str]:
    """Return the notes below a table."""
    notes = ["*: no other row is sparser and as robust. ± sd over seeds, [95%]. ≤ ≥: bounds"]
    if any(p is not None for p in against_best(board).p):
        notes.append(PAIRED)
    if any(row.constant for row in board.rows):
        share = "" if board.commonest is None else f" (the commonest: {percent(board.commonest)}%)"
        notes.append(
            f"A network that gives one class for everything isn't robust and comes last{share}"
        )
    return notes


def _p_value(p: float) -> str:
    """Write a p-value as .034, or <.001."""
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


#: the columns that fit into 80 characters, and their headings there
_NARROW = {
    "density": "kept\nall",
    "clean": "clean\n%",
    "robust": "robust\n% (≤)",
    "certified": "cert.\n% (≥)",
    "r*": "r*\n(≤)",
    "size": "size",
    "latency": "ms",
    "seeds": "seeds",
}


def apart(text: str) -> tuple[str, str]:
    """Split a figure from its uncertainty: ("83.2", "± 0.8") or ("83.0", "[74.2, 89.8]")."""
    value, _, rest = text.replace(" ± ", "\n± ").replace(" [", "\n[").partition("\n")
    return value, rest


def _stacked(text: str) -> Text:
    value, rest = apart(text)
    return Text.assemble(value, "\n", (rest, "dim")) if rest else Text(value)


def _size(measured: Measured | None) -> str:
    return "" if measured is None else file_size(round(measured.mean))


def _like(measured: Measured | None) -> Callable[[float], str]:
    """Return a function that writes a mean with three significant digits, and its sd alike."""
    mean = 0.0 if measured is None else abs(measured.mean)
    decimals = max(0, 2 - math.floor(math.log10(mean))) if mean else 2
    return f"{{:.{decimals}f}}".format


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"
