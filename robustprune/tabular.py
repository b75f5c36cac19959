"""Show a result as a small HTML table, which notebooks display in place of its `repr`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

#: the largest number of rows that a notebook shows; the others are counted in the last one
MOST_ROWS = 40


def html_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table whose first column is text and whose other columns are right-aligned numbers.

    Every value is escaped. After `MOST_ROWS` rows, a line says how many are left out.
    """
    lines = [[str(value) for value in row] for row in rows]
    left_out = len(lines) - MOST_ROWS
    body = "".join(_row(line, "td") for line in lines[:MOST_ROWS])
    if left_out > 0:
        body += f'<tr><td colspan="{len(heads)}">and {left_out:,} more</td></tr>'
    head = f"<thead>{_row(heads, 'th')}</thead>" if heads else ""
    caption = f'<caption style="text-align: left">{escape(title)}</caption>'
    return f"<table>{caption}{head}<tbody>{body}</tbody></table>"


def _row(values: Sequence[str], kind: str) -> str:
    cells = (
        f'<{kind} style="text-align: {"right" if place else "left"}">{escape(value)}</{kind}>'
        for place, value in enumerate(values)
    )
    return f"<tr>{''.join(cells)}</tr>"


def share(value: float | None) -> str:
    """Write a fraction as 12.3%, and None as –."""
    return "–" if value is None else f"{100 * value:.3g}%"
