"""Write the comparison to files: HTML with its figures, CSV, LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robustprune.compare.board import Board
from robustprune.compare.export import as_csv, as_latex
from robustprune.compare.figures import figures
from robustprune.compare.grid import markdown_grid
from robustprune.compare.paired import against_best
from robustprune.compare.table import PAIRED, apart, columns_of
from robustprune.measure.statistics import INTERVAL_METHOD
from robustprune.report.fill import render_html
from robustprune.report.style import inline, page_colours
from robustprune.report.wording import threat_phrase
from robustprune.run.checkpoint import write_atomically


def write_comparison(boards: Sequence[Board], folder: Path, runs: Sequence[Path]) -> list[Path]:
    """Write compare.html, .csv, .tex, plots/*.svg and grid.md; each file whole or not at all.

    Args:
        runs: the run directories from which the boards come; the page names them.

    Raises:
        OSError: the folder can't be written to.
    """
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    sections, plots = [], []
    for number, board in enumerate(boards):
        drawn = figures(board, prefix=f"{number}-" if len(boards) > 1 else "")
        plots += drawn
        front, columns = board.front, columns_of(board)
        sections.append(
            {
                "title": f"{board.task}, {threat_phrase(board.threat)}",
                "board": board,
                "columns": columns,
                "rows": [
                    (row.title, row in front, [apart(c.write(row)) for c in columns])
                    for row in board.rows
                ],
                "plots": drawn,
                "paired": PAIRED,
                "tested": any(p is not None for p in against_best(board).p),
                "constant": any(row.constant for row in board.rows),
            }
        )
    html = render_html(
        "compare.html.j2",
        {
            "sections": sections,
            "runs": [str(run) for run in runs],
            "interval_method": INTERVAL_METHOD,
            "inline": inline,
            "page_colours": page_colours(),
        },
    )
    for plot in plots:
        write_atomically(folder / "plots" / f"{plot.key}.svg", plot.svg)
    return [
        write_atomically(folder / "compare.html", html),
        write_atomically(folder / "compare.csv", as_csv(boards)),
        write_atomically(folder / "compare.tex", as_latex(boards)),
        write_atomically(folder / "grid.md", "\n".join(map(markdown_grid, boards))),
    ]
