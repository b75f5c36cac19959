"""Show a board as a grid: a row for each method, a column for each density."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich import box
from rich.table import Table
from rich.text import Text

from robustprune.compare.board import Board, Row
from robustprune.compare.table import accuracy, apart
from robustprune.report.fill import escape_markdown
from robustprune.report.wording import threat_phrase
from robustprune.run.terminal import printable

Cell = TypeVar("Cell")


@dataclass(frozen=True)
class Grid:
    """The rows of a board by method and density.

    Attributes:
        densities: the columns, which are the requested densities in decreasing order.
        lines: (method, its row at each density or None), without dense networks.
        dense: the dense networks.
    """

    densities: tuple[float, ...]
    lines: tuple[tuple[str, tuple[Row | None, ...]], ...]
    dense: tuple[Row, ...]


def grid_of(board: Board) -> Grid:
    """Sort the board's networks by method and requested density."""
    sparse = [row for row in board.rows if not row.baseline]
    densities = tuple(sorted({row.asked for row in sparse}, reverse=True))
    lines: dict[str, dict[float, Row]] = {}
    for row in sparse:
        lines.setdefault(row.family, {})[row.asked] = row
    return Grid(
        densities,
        tuple((name, tuple(map(row.get, densities))) for name, row in lines.items()),
        tuple(row for row in board.rows if row.baseline),
    )


def terminal_grid(board: Board) -> Table:
    """Return the grid for a terminal: robust accuracy (%), its spread, and clean accuracy."""
    grid, parts = grid_of(board), _heading(board)
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(printable(parts[0])),
        caption=Text(parts[1]),
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("network", overflow="fold", min_width=12)
    for head in _heads(grid):
        table.add_column(head, justify="right", no_wrap=True)
    for name, cells in _body(grid, _stacked):
        table.add_row(Text(printable(name)), *cells)
    return table


def markdown_grid(board: Board) -> str:
    """Return the same grid as Markdown, with "robust / clean" in each cell."""
    grid, parts = grid_of(board), _heading(board)
    heads = ("network", *_heads(grid))
    lines = [
        f"{escape_markdown(parts[0])}. {parts[1]}.\n",
        "| " + " | ".join(heads) + " |",
        "| --- " * len(heads) + "|",
    ]
    for name, cells in _body(grid, _beside):
        lines.append("| " + " | ".join((escape_markdown(name), *cells)) + " |")
    return "\n".join(lines) + "\n"


def _heading(board: Board) -> tuple[str, str]:
    seeds = sorted({len(row.seeds) for row in board.rows})
    counts = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    title = (
        f"{board.task}, {threat_phrase(board.threat)}, n = {board.n}, "
        f"{counts} seed{'s' if seeds[-1] > 1 else ''}"
    )
    return title, (
        "Robust accuracy (%, upper bound) and clean accuracy, by share of weights kept (as asked)"
    )


def _heads(grid: Grid) -> list[str]:
    return [*(["dense"] if grid.dense else []), *(f"{density:.3g}" for density in grid.densities)]


def _body(grid: Grid, write: Callable[[Row | None], Cell]) -> Sequence[tuple[str, list[Cell]]]:
    blank = [write(None)]
    body = [(row.title, [write(row), *blank * len(grid.densities)]) for row in grid.dense]
    lead = blank if grid.dense else []
    return [*body, *((name, [*lead, *map(write, rows)]) for name, rows in grid.lines)]


def _stacked(row: Row | None) -> Text:
    if row is None:
        return Text("")
    value, spread = apart(accuracy(row.worst))
    clean, _ = apart(accuracy(row.clean))
    below = [part for part in (spread, clean, _remark(row)) if part]
    return Text.assemble(value, *(("\n" + part, "dim") for part in below))


def _beside(row: Row | None) -> str:
    if row is None:
        return ""
    remark = f" ({_remark(row)})" if _remark(row) else ""
    return f"{accuracy(row.worst)} / {apart(accuracy(row.clean))[0]}{remark}"


def _remark(row: Row) -> str:
    """Return what the place in the grid does not show: a constant answer, or another density."""
    kept = "" if f"{row.density:.3g}" == f"{row.asked:.3g}" else f"{row.density:.3g} kept"
    return ", ".join(part for part in ("one class" if row.constant else "", kept) if part)
