"""Write boards as JSON, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from robustprune.compare.board import Board, Measured
from robustprune.compare.paired import against_best
from robustprune.compare.table import columns_of
from robustprune.report.wording import threat_phrase

_FIGURES = ("clean", "worst", "certified", "r", "file_bytes", "latency", "speed")


def as_json(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """Return boards as values for JSON: every figure has mean, sd, values, interval and n;
    constant is a number of seeds; p compares with the row that is `best`, see `against_best`."""
    tests = [against_best(board) for board in boards]
    return [
        {
            "task": board.task,
            "norm": board.threat.norm,
            "eps": board.threat.eps,
            "bounds": board.threat.bounds,
            "attacks": dict(board.attacks),
            "rows": [
                {
                    "network": row.title,
                    "baseline": row.baseline,
                    "pareto": row in board.front,
                    "constant": row.constant,
                    "best": row is test.best,
                    "p": p,
                    "density": row.density,
                    "kept": row.kept,
                    "total": row.total,
                    "whole_density": row.whole,
                    "seeds": list(row.seeds),
                    **{name: _json(getattr(row, name)) for name in _FIGURES},
                }
                for row, p in zip(board.rows, test.p, strict=True)
            ],
        }
        for board, test in zip(boards, tests, strict=True)
    ]


def as_csv(boards: Sequence[Board]) -> str:
    """Write one line for each row in plain numbers: fractions, input units, bytes, seconds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("mean", "sd", "low", "high", "n")
    writer.writerow(
        [
            *("task", "norm", "eps", "network", "density", "kept", "total", "seeds", "pareto"),
            *(f"{name}_{part}" for name in _FIGURES for part in parts),
            *("constant", "p", "whole_density"),
        ]
    )
    for board in boards:
        for row, p in zip(board.rows, against_best(board).p, strict=True):
            figures = []
            for name in _FIGURES:
                measured: Measured | None = getattr(row, name)
                low, high = (measured and measured.interval) or (None, None)
                values = (
                    (measured.mean, measured.sd, low, high, measured.n) if measured else [None] * 5
                )
                figures += ["" if value is None else value for value in values]
            figures += [row.constant, "" if p is None else p]
            figures += ["" if row.whole is None else row.whole]
            task, title = as_text(board.task), as_text(row.title)
            writer.writerow(
                [
                    *(task, board.threat.norm, board.threat.eps, title, row.density),
                    *(row.kept, row.total, len(row.seeds), int(row in board.front), *figures),
                ]
            )
    return text.getvalue()


def as_text(name: str) -> str:
    """Return a name for a cell of a .csv file, which a spreadsheet reads as text, not a formula."""
    return re.sub(r"^(?=[=+\-@\t\r])", "'", name)


def as_latex(boards: Sequence[Board]) -> str:
    r"""Return a LaTeX table for each board, which needs only \usepackage{booktabs}."""
    return "\n".join(map(_latex, boards))


def _latex(board: Board) -> str:
    columns = columns_of(board)
    front = board.front
    heads = " & ".join(
        _tex(f"{c.title} ({c.note})" if c.note in ("%", "kept") else c.title) for c in columns
    )
    notes = "; ".join(f"{c.title}: {c.note}" for c in columns if c.note not in ("", "%", "kept"))
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(board.task)}, {_tex(threat_phrase(board.threat))}, $n = {board.n}$. "
        rf"{_tex(notes)}. Mean $\pm$ sd over seeds, else 95\% intervals; "
        r"bold: no other row is sparser and as robust.}",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        rf"network & {heads} \\",
        r"\midrule",
    ]
    for row in board.rows:
        title = _tex(row.title)
        title = rf"\textbf{{{title}}}" if row in front else title
        cells = " & ".join(_tex(c.write(row)) or "--" for c in columns)
        lines.append(rf"{title} & {cells} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


_TEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "∞": r"$\infty$",
    "ε": r"$\varepsilon$",
    "λ": r"$\lambda$",
    "*": r"$^*$",
    "<": r"$<$",
    ">": r"$>$",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def _json(measured: Measured | None) -> dict[str, Any] | None:
    if measured is None:
        return None
    return {
        "mean": measured.mean,
        "sd": measured.sd,
        "values": list(measured.values),
        "interval": measured.interval and list(measured.interval),
        "n": measured.n,
    }
