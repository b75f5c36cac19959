"""Compare runs: one table and figures for each task and threat model, and leaderboard entries."""

from robustprune.compare.board import Board, Measured, Row, boards_of, on_front
from robustprune.compare.causal import (
    CausalBoard,
    causal_boards,
    causal_json,
    is_causal_run,
    terminal_causal,
    write_causal,
)
from robustprune.compare.entry import benchmark_entry, write_entry
from robustprune.compare.export import as_csv, as_json, as_latex
from robustprune.compare.gather import Result, find_runs, gather
from robustprune.compare.grid import Grid, grid_of, markdown_grid, terminal_grid
from robustprune.compare.page import write_comparison
from robustprune.compare.table import terminal_board

__all__ = [
    "Board",
    "CausalBoard",
    "Grid",
    "Measured",
    "Result",
    "Row",
    "as_csv",
    "as_json",
    "as_latex",
    "benchmark_entry",
    "boards_of",
    "causal_boards",
    "causal_json",
    "find_runs",
    "gather",
    "grid_of",
    "is_causal_run",
    "markdown_grid",
    "on_front",
    "terminal_board",
    "terminal_causal",
    "terminal_grid",
    "write_causal",
    "write_comparison",
    "write_entry",
]
